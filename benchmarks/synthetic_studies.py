"""Synthetic studies with a known truth: runs whose errors, losses and gradients are drawn from one cause each.

`verdict_confusion.py` compares the verdicts with the truth; `tests/study/verdicts/test_verdict_confusion.py` does for a
part.
"""

import dataclasses
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from resnetlab.config import DataConfig, RunConfig
from resnetlab.study.arms import CAPPED, arm_network, arm_recipe
from resnetlab.study.results import Run
from resnetlab.training.recipes import recipe

STEPS, EVERY, LAYERS = 400, 16, 20
"""Length of each run, steps between its samples, and sampled layers."""
UNDECIDED = "undecided"
"""Truth of a study whose runs allow more than one explanation, or do not suffice."""


@dataclasses.dataclass(frozen=True)
class Study:
    """Runs with a known cause."""

    scenario: str
    truth: str
    """A kind of verdict, or `UNDECIDED`."""
    runs: tuple[Run, ...]


@dataclasses.dataclass(frozen=True)
class Shape:
    """What one run shows: its errors, in %, its gradients over layers and steps, and its loss."""

    train: float | None
    """Final training error; `None` for a run that ended in NaN."""
    unseen_gap: float = 1.0
    gradient: float = 0.2
    """||gradient|| / ||weights|| of an ordinary layer, scattered by a factor of 2."""
    first_layers: dict[int, float | None] = dataclasses.field(default_factory=dict)
    """Other values of single layers at the first step; `None` is not finite."""
    later: float | None = None
    """Gradient of the layers in `stalled` from the second sample on."""
    stalled: int = 0
    falls: float = 0.0
    """Share by which the loss falls over each quarter of the steps at the high rate, after a quick start."""
    rise: float = 1.0
    """Highest running loss, as a multiple of the first."""


def synthetic_run(
    rng: random.Random, arm: str, depth: int, seed: int, shape: Shape, *, train_images: int | None = None
) -> Run:
    """Return a run of `STEPS` steps on ten classes with the digits recipe (lr 0.01, divided at 1/2 and 3/4)."""
    config = RunConfig(
        model=arm_network(arm, depth),
        data=DataConfig("digits", train_images=train_images),
        recipe=arm_recipe(arm, recipe("digits")),
        seed=seed,
    )
    result: dict[str, Any] = {"status": "diverged" if shape.train is None else "done", "steps": STEPS}
    if shape.train is not None:
        unseen = min(100.0, shape.train + shape.unseen_gap)
        result |= {"train_error_pct": shape.train, "val_error_pct": unseen, "test_error_pct": unseen}
    losses = _losses(shape)
    return Run(
        directory=Path(f"{arm}-{depth}-{seed}"),
        config=config,
        status=result["status"],
        start={"data": {"classes": [str(digit) for digit in range(10)]}},
        epochs=tuple(_epochs(losses, shape)),
        result=result,
        layer_stats=tuple(_layer_stats(rng, shape, losses)),
    )


def _losses(shape: Shape) -> list[float]:
    """Return the running loss at every fifth step."""
    if shape.train is not None and shape.train < 10:
        return [2.3 * 0.97 ** (step / 4) + 0.01 for step in range(5, STEPS + 1, 5)]
    level = 2.3 * (0.4 + 0.6 * (shape.train or 90.0) / 90)
    losses = []
    for step in range(5, STEPS + 1, 5):
        quarters = min(step, STEPS / 2) / (STEPS / 8)
        loss = level * (1 - shape.falls) ** (quarters - 4)
        losses.append(loss * (shape.rise if 10 <= step <= 20 else 1.0))
    return losses


def _epochs(losses: list[float], shape: Shape) -> Iterator[dict[str, Any]]:
    for start in range(0, len(losses), 16):
        steps = [5 * (index + 1) for index in range(start, start + 16)]
        error = 90.0 if shape.train is None else shape.train
        curve = {"step": steps, "loss": losses[start : start + 16], "train_error_pct": [error] * 16}
        yield {"step": steps[-1], "lr": 0.01, "val_error_pct": error, "curve": curve}


def _layer_stats(rng: random.Random, shape: Shape, losses: list[float]) -> Iterator[dict[str, Any]]:
    base = [shape.gradient * 2 ** rng.uniform(-1, 1) for _ in range(LAYERS)]
    for step in range(1, STEPS + 1, EVERY):
        loss = 2.3 if step == 1 else losses[(step - 1) // 5]
        fitted = min(1.0, loss / 2.3)
        gradients: list[float | None] = [value * fitted for value in base]
        if step == 1:
            for layer, value in shape.first_layers.items():
                gradients[layer] = value
        elif shape.later is not None:
            gradients[: shape.stalled] = [shape.later * 2 ** rng.uniform(-1, 1)] * shape.stalled
        yield {
            "step": step,
            "lr": 0.01 * 0.1 ** ((step > STEPS / 2) + (step > 3 * STEPS / 4)),
            "loss": loss,
            "layers": [f"layer{index}" for index in range(LAYERS)],
            "kernels": [3] * LAYERS,
            "grad_norm": gradients,
            "grad_to_weight": gradients,
            "response_std": [1.0] * LAYERS,
            "activation_var": [0.3] * LAYERS,
            "dead_relu_pct": [0.0] * LAYERS,
            "blocks": [],
            "residual_ratio": [],
        }


Draw = Callable[[random.Random], Shape]
"""Draws one run."""


def grid(rng: random.Random, arms: dict[str, dict[int, Draw]], *, seeds: int, images: int | None = None) -> list[Run]:
    """Return the runs of a study: for each arm and depth one run per seed, drawn by its function."""
    return [
        synthetic_run(rng, arm, depth, seed, draw(rng), train_images=images)
        for arm, depths in arms.items()
        for depth, draw in depths.items()
        for seed in range(seeds)
    ]


def fitted(rng: random.Random) -> Shape:
    """A sound run that fits its training set."""
    return Shape(rng.uniform(0.1, 2.0), gradient=rng.uniform(0.05, 1.0))


def worse(rng: random.Random) -> Shape:
    """A run with sound gradients that learns little, and does not improve."""
    return Shape(rng.uniform(45, 75), gradient=rng.uniform(0.05, 1.0), falls=rng.uniform(0, 0.02))


def overwritten(rng: random.Random) -> Shape:
    """A run whose first step overwrites some layers, which then stall."""
    first: dict[int, float | None] = {layer: rng.uniform(150, 2000) for layer in range(rng.randint(1, 4))}
    return Shape(rng.uniform(55, 85), first_layers=first, later=1e-6, stalled=rng.randint(3, 9))


def unlearnt(**changes: Any) -> Draw:
    """A run at the error of guessing."""
    return lambda rng: Shape(rng.uniform(87, 90), **changes)


def diverged(rng: random.Random) -> Shape:
    """A run with sound gradients that ends in NaN."""
    return Shape(None, gradient=rng.uniform(0.05, 1.0))


def falling(low: float, high: float) -> Draw:
    """A run with sound gradients that stops while its loss falls."""
    return lambda rng: Shape(rng.uniform(low, high), falls=rng.uniform(0.08, 0.3))


def near(error: float, spread: float = 0.3, gap: float = 1.0) -> Draw:
    """A sound run that ends at a training error and a gap to unseen images."""
    return lambda rng: Shape(max(0.0, error + rng.uniform(-spread, spread)), gap + rng.uniform(-0.3, 0.3))


def capped(depths: dict[int, Draw]) -> dict[str, dict[int, Draw]]:
    """The control arm of plain networks."""
    return {f"plain{CAPPED}": depths}
