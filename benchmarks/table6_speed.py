"""The first measurement of `table6.py`: training speed in eager mode, from a CUDA graph and compiled."""

import argparse
import json
import time
from typing import Any

from resnetlab.system.atomic_files import write_atomic

MEASURED = ("resnet20", "resnet56", "resnet110")
SPEED = "speed.json"
"""Name of the record."""
WARM_UP_STEPS, TIMED_STEPS = 40, 120


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
    from resnetlab.training.callbacks import Callback
    from resnetlab.training.recipes import recipe
    from resnetlab.training.trainer import Trainer

    class Clock(Callback):
        """The time at which the losses of steps were read."""

        def __init__(self) -> None:
            self.read_s: dict[int, float] = {}

        def on_step(self, trainer: Any, metrics: Any) -> None:
            self.read_s[metrics.step] = time.perf_counter()

    steps = options.steps or WARM_UP_STEPS + TIMED_STEPS
    model, clock = model_config(f"{network}-cifar"), Clock()
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
    last = max(clock.read_s)
    first = min(step for step in clock.read_s if step >= min(WARM_UP_STEPS, last - 1))
    seconds = clock.read_s[last] - clock.read_s[first]
    return trainer, (last - first) * config.recipe.batch_size / seconds


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
