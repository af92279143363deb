"""The first measurement of `table6.py`: training speed in eager mode, from a CUDA graph and compiled."""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

from resnetlab.system.atomic_files import write_atomic
from resnetlab.training.callbacks import Callback

MEASURED = ("resnet20", "resnet56", "resnet110")
SPEED = "speed.json"
"""Name of the record."""
WARM_UP_STEPS, TIMED_STEPS = 40, 120


class StepClock(Callback):
    """The time at which each group of steps ended: on a GPU the losses of several steps are read together."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._ends: dict[float, tuple[int, float]] = {}

    def on_step(self, trainer: Any, metrics: Any) -> None:
        """Note step and time; the steps of a group are counted after its end, where the trainer's time stands still."""
        self._ends[trainer.state.train_time_s] = (metrics.step, self._now())

    def step_s(self, warm_up: int) -> float:
        """Return the seconds of a step, from the end of the first group after the warm-up to that of the last one."""
        ends = list(self._ends.values())
        first_step, first_s = next((end for end in ends[:-1] if end[0] >= warm_up), ends[-2])
        last_step, last_s = ends[-1]
        return (last_s - first_s) / (last_step - first_step)


def measure(options: argparse.Namespace) -> None:
    """Measure training in eager mode, from a CUDA graph and compiled; write the record after each measurement."""
    from resnetlab.system.allocator import use_huge_pages

    use_huge_pages()
    networks = [net for net in MEASURED if net in (options.networks or MEASURED)] or options.networks[:1]
    ways = ("off", "cuda-graph", "on") if options.device == "cuda" else ("off",)  # compiling takes longest: last
    speeds: dict[str, dict[str, float]] = {}
    for way, network in ((way, network) for way in ways for network in networks):
        name = {"off": "eager", "on": "compiled", "cuda-graph": "cuda_graph"}[way]
        trainer, speed = train_speed(network, way, options)
        speeds.setdefault(network, {})[name] = speed
        record = {"images_per_s": speeds, "launch_share": launch_shares(speeds), **conditions(trainer)}
        options.records.mkdir(parents=True, exist_ok=True)
        write_atomic(options.records / SPEED, json.dumps(record, indent=1) + "\n")
        share = launch_shares(speeds).get(network)
        launches = "" if share is None or name == "eager" else f"; {100 * share:.0f} % of an eager step are launches"
        print(f"{network} {trainer.execution.name}, {name}: {speed:,.0f} images/s{launches}", flush=True)


def train_speed(network: str, way: str, options: argparse.Namespace) -> tuple[Any, float]:
    """Train a network for some steps; return the trainer, and images per second without the first steps."""
    from resnetlab.config import DataConfig, RunConfig
    from resnetlab.models.zoo import model_config
    from resnetlab.training.recipes import recipe
    from resnetlab.training.trainer import Trainer

    steps = options.steps or WARM_UP_STEPS + TIMED_STEPS
    model, clock = model_config(f"{network}-cifar"), StepClock()
    config = RunConfig(
        model,
        DataConfig(options.data, root=options.data_root and str(options.data_root)),
        recipe("cifar-paper", model, steps=steps),
        device=options.device,
        precision=options.precisions[0],
        layout="channels_last",
        compile=way,  # pyright: ignore[reportArgumentType]  # one of its values
        layer_stats_steps=0,
    )
    trainer = Trainer(config, [clock])
    trainer.train_epoch()
    return trainer, config.recipe.batch_size / clock.step_s(WARM_UP_STEPS)


def launch_shares(speeds: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return the share of an eager step that a CUDA graph saves: the time in which the GPU waits for launches."""
    return {
        network: 1 - speed["eager"] / speed["cuda_graph"] for network, speed in speeds.items() if "cuda_graph" in speed
    }


def conditions(trainer: Any) -> dict[str, Any]:
    """Return machine, versions and precision of a measurement, as a run's record has them."""
    from resnetlab.training.reports import run_line

    line = run_line(trainer)
    return {"precision": trainer.execution.precision, **{key: line[key] for key in ("machine", "versions", "started")}}
