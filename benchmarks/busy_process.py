"""Training speed while another program keeps a core busy, with one process and with two (`train --processes 2`).

Each side trains ResNet-20 on CIFAR-10 for some steps, without and with a busy process that this script starts. The
sides take turns; printed are medians, and each speed beside the busy process relative to one process on a quiet
machine. The weights of quiet and busy runs are compared bit for bit.

    python benchmarks/busy_process.py --data CIFAR10
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file

from benchmark_data import add_data_argument

BOUND = 0.55
"""Smallest speed of two processes beside a busy process, relative to one process on a quiet machine."""
IMAGES, BATCH_SIZE = 1280, 128


def main() -> int:
    """Measure and print; return 1 if the bound is missed or weights differ."""
    parser = argparse.ArgumentParser(description="time training beside a busy process")
    add_data_argument(parser, "--data", "cifar10", "CIFAR-10, as for resnetlab train --data")
    parser.add_argument("--steps", type=int, default=20, help="training steps of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="number of measurements of each side")
    options = parser.parse_args()
    speeds: dict[tuple[int, bool], list[float]] = {}
    equal = True
    for _ in range(options.rounds):
        for processes in (1, 2):
            with tempfile.TemporaryDirectory() as folder:
                runs = {is_busy: Path(folder) / f"busy-{is_busy}" for is_busy in (False, True)}
                for is_busy, out in runs.items():
                    with busy_process() if is_busy else contextlib.nullcontext():
                        speed = train(options.data, out, processes, options.steps)
                    speeds.setdefault((processes, is_busy), []).append(speed)
                equal &= same_weights(*runs.values())
    median = {key: statistics.median(values) for key, values in speeds.items()}
    quiet = median[1, False]
    print(f"ResNet-20, batch {BATCH_SIZE}, images/s: median of {options.rounds}; relative to 1 process, quiet")
    for (processes, is_busy), speed in sorted(median.items()):
        name = f"{processes} process{'es' if processes > 1 else ''}, {'beside a busy process' if is_busy else 'quiet'}"
        print(f"{name:<36}{speed:6.0f}  {speed / quiet:5.2f}")
    kept = median[2, True] / quiet
    print(f"2 processes beside a busy process: {kept:.2f}, bound {BOUND}; weights quiet and busy equal: {equal}")
    return int(kept < BOUND or not equal)


def train(data: Path, out: Path, processes: int, steps: int) -> float:
    """Train for some steps; return images per second of the training steps."""
    words = f"--model resnet20 --train-images {IMAGES} --batch-size {BATCH_SIZE} --steps {steps} --device cpu --json"
    command = [sys.executable, "-m", "resnetlab", "train", "--data", str(data), *words.split(), "--out", str(out)]
    done = subprocess.run([*command, "--processes", str(processes)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"training failed: {done.stderr}")
    return json.loads(done.stdout)["images_per_s"]


@contextlib.contextmanager
def busy_process() -> Iterator[None]:
    """Keep one core busy, as far as the kernel lets it."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def same_weights(quiet: Path, busy: Path) -> bool:
    """Return whether two runs ended with the same weights, bit for bit."""
    first, second = (load_file(out / "model.safetensors") for out in (quiet, busy))
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


if __name__ == "__main__":
    sys.exit(main())
