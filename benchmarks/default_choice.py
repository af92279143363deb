"""Compare the execution that `train` selects with every one that a user could name, measured in turn.

For each case all eager executions (precision, layout, threads) take steps in turn. Then `select_execution` measures as
it does at the start of a short and of a longer run, and the speed of the selected one is divided by the best one's.
Compilation is left out: a run tries it only above an hour, because that takes a minute. Run it on a quiet machine.

    python benchmarks/default_choice.py --rounds 7
"""

import argparse
import itertools
import statistics
import sys
import time
from dataclasses import replace

import torch

from resnetlab.system.allocator import use_huge_pages

use_huge_pages()  # as the command line does

from resnetlab.config import RunConfig  # noqa: E402
from resnetlab.data.rng import make_generator  # noqa: E402
from resnetlab.models.cost import cost_of_config  # noqa: E402
from resnetlab.models.zoo import build_model, model_config  # noqa: E402
from resnetlab.system.cores import thread_counts  # noqa: E402
from resnetlab.training.execution.execution import Execution  # noqa: E402
from resnetlab.training.execution.select_execution import StepLoad, select_execution  # noqa: E402
from resnetlab.training.execution.step_timer import StepTimer, random_batch, unchanged  # noqa: E402
from resnetlab.training.loss import make_loss  # noqa: E402
from resnetlab.training.recipes import recipe  # noqa: E402

CASES = {
    "resnet20, 32 px, batch 128": ("resnet20", 32, "cifar-paper", 128),
    "resnet56, 32 px, batch 128": ("resnet56", 32, "cifar-paper", 128),
    "resnet18, 64 px, batch 128": ("resnet18", 64, "scratch", 128),
    "resnet18, 128 px, batch 16": ("resnet18", 128, "finetune", 16),
    "resnet50, 128 px, batch 16": ("resnet50", 128, "finetune", 16),
}
LENGTHS_S = (90.0, 600.0)
"""Lengths of the runs that are planned, in seconds of fp32 on this machine."""
BOUND = 0.95
"""Least speed of the selected execution, as a share of the best one's."""


def main() -> int:
    """Measure every case; return 1 if a selected execution is slower than the bound."""
    parser = argparse.ArgumentParser(description="compare the selected execution with the others")
    parser.add_argument("--rounds", type=int, default=7, help="steps of each execution, after one unmeasured")
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} threads by default, torch {torch.__version__}")
    lowest = min(measure(case, options.rounds) for case in CASES)
    print(f"lowest share of the best speed {lowest:.3f} (bound {BOUND})")
    return int(lowest < BOUND)


def measure(case: str, rounds: int) -> float:
    """Print the speeds of one case, and return the lowest share of the best one's that a selected execution has."""
    name, side, recipe_name, batch_size = CASES[case]
    chosen = recipe(recipe_name, steps=1000, batch_size=batch_size, frozen_epochs=0)
    config = RunConfig(model_config(name), recipe=chosen, compile="off")
    model = build_model(config.model, generator=make_generator(0, "weights"))
    macs, threads = cost_of_config(config.model, side).macs, torch.get_num_threads()
    ways = [
        Execution(precision, layout, threads=count)
        for precision, layout, count in itertools.product(
            ("fp32", "bf16"), ("channels_last", "contiguous"), thread_counts(threads)
        )
    ]
    timer = StepTimer(model, *random_batch(model, batch_size, side), loss=make_loss(config.recipe))
    speeds = speeds_in_turn(ways, timer, rounds)
    best = max(speeds, key=lambda way: speeds[way])
    print(f"{case}: " + "; ".join(f"{way} {speed:.0f}" for way, speed in sorted(speeds.items(), key=lambda s: -s[1])))
    shares = []
    for seconds in LENGTHS_S:
        steps = round(seconds * speeds[Execution(threads=threads).name] / batch_size)
        load = StepLoad(macs, total_steps=steps, batch_size=batch_size, depth=config.model.depth)
        start_s = time.perf_counter()
        selected, _ = select_execution(config, model, lambda number: random_batch(model, number, side), load=load)
        selecting_s = time.perf_counter() - start_s
        name = replace(selected, threads=selected.threads or threads).name
        shares.append(speeds[name] / speeds[best])
        print(f"  a run of {seconds:.0f} s: {name} in {selecting_s:.1f} s, {shares[-1]:.3f} of {best}")
    return min(shares)


def speeds_in_turn(ways: list[Execution], timer: StepTimer, rounds: int) -> dict[str, float]:
    """Return images per second by name: the median over steps that the executions take in turn."""
    times: dict[str, list[float]] = {way.name: [] for way in ways}
    with unchanged(timer.model):
        forwards = {way.name: timer.forward(way) for way in ways}
        for number in range(rounds + 1):
            for way in ways:
                seconds = timer.time_step(way, forwards[way.name])
                if number:
                    times[way.name].append(seconds)
        timer.restore_threads()
    return {name: len(timer.labels) / statistics.median(values) for name, values in times.items()}


if __name__ == "__main__":
    sys.exit(main())
