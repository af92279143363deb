"""Compare the CIFAR-10 training speed of `resnetlab train` with a plain PyTorch loop.

Both sides train the same network on real images with batch size 128, in turn. Ours is what `train` runs, including data
and augmentation, with the settings that a long run would select (bf16, channels last, compiled; see --precision,
--compile). The other side is `plain_cifar.py`: PIL transforms in a `DataLoader`, fp32, eager. It runs in a process of
its own, so that our memory settings do not affect it. Warm-up, including compilation (half a minute), is not counted on
either side. Prints images/s, the median ratio, the share of the machine's measured matrix-multiply peak in the same
precision, and the time that a step waits for data.

    python benchmarks/train_speed.py --data CIFAR10
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmark_data import add_data_argument
from resnetlab.system.allocator import use_huge_pages

USUAL_ENVIRONMENT = dict(os.environ)
"""The environment before our memory settings, for the other side."""

use_huge_pages()  # as `resnetlab train` does, before PyTorch is loaded

import numpy as np  # noqa: E402
import torch  # noqa: E402

from resnetlab.config import DataConfig, RunConfig  # noqa: E402
from resnetlab.models.zoo import model_config  # noqa: E402
from resnetlab.training.recipes import recipe  # noqa: E402
from resnetlab.training.trainer import Trainer  # noqa: E402

BOUND = 2.4
"""Smallest ratio of images per second for ResNet-20, ours to plain, on two cores."""

WAIT_BOUND_PCT = 2.0
"""Largest share of a step that is spent waiting for data."""

WARM_UP = 8


def main() -> int:
    """Measure both networks; return 1 if ResNet-20 or the wait for data misses its bound."""
    parser = argparse.ArgumentParser(description="time our CIFAR training against a plain loop")
    add_data_argument(parser, "--data", "cifar10", "CIFAR-10, as for resnetlab train --data")
    parser.add_argument("--networks", nargs="+", default=["resnet20", "resnet56"], help="networks to measure")
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds of each side")
    parser.add_argument("--steps", type=int, default=40, help="steps of each side in a round")
    parser.add_argument("--precision", default="bf16", help="precision of our side: bf16 or fp32")
    parser.add_argument("--compile", default="on", help="compilation of our side: on or off")
    parser.add_argument("--plain-workers", type=int, default=2, help="worker processes of the plain loop's DataLoader")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    peak = matmul_flops(torch.bfloat16 if options.precision == "bf16" else torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        results = {name: compare(name, options, peak, Path(folder, "images.npy")) for name in options.networks}
    if options.json:
        print(json.dumps({"peak_gflops": peak / 1e9, "networks": results, "bound": BOUND}))
    slow = results.get("resnet20", {"median_ratio": BOUND})["median_ratio"] < BOUND
    return int(slow or max(result["data_wait_pct"] for result in results.values()) > WAIT_BOUND_PCT)


def compare(name: str, options: argparse.Namespace, peak: float, images: Path) -> dict:
    """Run the rounds of one network and print them."""
    config = RunConfig(
        model_config(name),
        DataConfig(str(options.data)),
        recipe("cifar-paper"),
        precision=options.precision,
        layout="channels_last",
        compile=options.compile,
    )
    trainer = Trainer(config)
    np.save(images, torch.as_tensor(trainer.data.splits["train"].images)[:5000].permute(0, 2, 3, 1).numpy())
    steps = endless(trainer)
    start = time.perf_counter()
    ours(steps, WARM_UP)
    warm_up_s = time.perf_counter() - start
    trainer.state.data_wait_s = trainer.state.train_time_s = 0.0
    rounds = []
    for index in range(options.rounds):
        sides = {
            "ours": lambda: ours(steps, options.steps),
            "plain": lambda: plain(name, images, options),
        }
        order = list(sides) if index % 2 == 0 else list(sides)[::-1]  # neither side is always second
        rounds.append({side: sides[side]() for side in order})
        if not options.json:
            print(name, {side: f"{speed:,.0f} images/s" for side, speed in rounds[-1].items()}, flush=True)
    ratios = [pair["ours"] / pair["plain"] for pair in rounds]
    speed = statistics.median(pair["ours"] for pair in rounds)
    share = 100 * 6 * trainer.macs * speed / peak  # forward and twice that backward, 2 FLOP a MAC
    result = {
        "images_per_s": speed,
        "plain_images_per_s": statistics.median(pair["plain"] for pair in rounds),
        "ratios": ratios,
        "median_ratio": statistics.median(ratios),
        "peak_pct": share,
        "data_wait_pct": 100 * trainer.state.data_wait_s / trainer.state.train_time_s,
        "warm_up_s": warm_up_s,
        "rounds": rounds,
    }
    if not options.json:
        print(
            f"{name} ({options.precision}, compile {options.compile}): ratios "
            f"{' '.join(f'{ratio:.2f}' for ratio in ratios)}, median {result['median_ratio']:.2f} (bound for resnet20 "
            f"{BOUND}); {share:.0f} % of the {peak / 1e9:,.0f} GFLOP/s matrix-multiply peak; data wait "
            f"{result['data_wait_pct']:.2f} %; warm-up {warm_up_s:.0f} s",
            flush=True,
        )
    return result


def endless(trainer: Trainer) -> Iterator[int]:
    """Train without end; yield the number of images of each step."""
    state = trainer.state
    while True:
        trainer.begin_epoch()
        with contextlib.closing(
            trainer.data.batches(state.epochs_done, 0, memory_format=trainer.execution.memory_format)
        ) as batches:
            for _ in trainer.epoch_steps():
                trainer.train_step(batches)
                yield trainer.config.recipe.batch_size
        state.epochs_done += 1
        state.start_epoch()


def ours(steps: Iterator[int], num_steps: int) -> float:
    """Return images per second over `num_steps` steps."""
    start = time.perf_counter()
    images = sum(next(steps) for _ in range(num_steps))
    return images / (time.perf_counter() - start)


def plain(name: str, images: Path, options: argparse.Namespace) -> float:
    """Return images per second of the plain loop."""
    script = Path(__file__).with_name("plain_cifar.py")
    words = ["--steps", str(options.steps), "--workers", str(options.plain_workers), "--images", str(images), "--json"]
    done = subprocess.run(
        [sys.executable, script, name, *words], check=True, capture_output=True, text=True, env=USUAL_ENVIRONMENT
    )
    return json.loads(done.stdout)["images_per_s"]


def matmul_flops(dtype: torch.dtype, size: int = 2048) -> float:
    """Return the highest floating-point operations per second of ten square matrix products."""
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    times = []
    for _ in range(11):
        start = time.perf_counter()
        torch.mm(a, b)
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times[1:])


if __name__ == "__main__":
    sys.exit(main())
