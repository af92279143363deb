"""Synthetic runs with known numbers, for tests of code that reads records."""

import dataclasses
from pathlib import Path
from typing import Any

from resnetlab.config import DataConfig, ModelConfig, RunConfig
from resnetlab.study.arms import Family, arm_network
from resnetlab.study.results import Run
from resnetlab.training.recipes import recipe

CLASSES = [str(digit) for digit in range(10)]


def layer_stats(model: ModelConfig, step: int = 1, gradient: float | None = 0.1, **changes: Any) -> dict[str, Any]:
    """Return stats of three convolutions, whose gradients are all `gradient` times their weights."""
    return {
        "step": step,
        "lr": 0.01,
        "loss": 2.3,
        "layers": ["conv1", "layer1.0.conv1", "layer1.0.conv2"],
        "kernels": [3, 3, 3],
        "grad_norm": [gradient] * 3,
        "grad_to_weight": [gradient] * 3,
        "response_std": [1.0] * 3,
        "activation_var": [0.3] * 3,
        "dead_relu_pct": [0.0] * 3,
        "blocks": ["layer1.0"],
        "residual_ratio": [None if model.shortcut == "none" else 0.5],
        **changes,
    }


def epoch(step: int, losses: list[float], error: float) -> dict[str, Any]:
    """Return an epoch that ends at `step` and whose curve has these running losses."""
    steps = list(range(step - len(losses) + 1, step + 1))
    curve = {"step": steps, "loss": losses, "train_error_pct": [error] * len(losses)}
    return {"step": step, "val_error_pct": error, "curve": curve}


def _half_at_the_high_rate(losses: tuple[float, ...], error: float) -> dict[str, Any]:
    """Return an epoch of 400 steps with these losses at equal distances up to step 200, and the last at step 400."""
    steps = [*(200 * (number + 1) // len(losses) for number in range(len(losses))), 400]
    curve = {"step": steps, "loss": [*losses, losses[-1]], "train_error_pct": [error] * len(steps)}
    return {"step": 400, "val_error_pct": error, "curve": curve}


def synthetic_run(
    arm: str,
    depth: int,
    seed: int,
    train: float | None,
    *,
    test: float | None = None,
    status: str = "done",
    gradient: float | None = 0.1,
    losses: tuple[float, ...] = (2.3, 1.0, 0.3, 0.1, 0.1, 0.1, 0.1, 0.1),
    train_images: int | None = None,
    data: str = "digits",
    has_layer_stats: bool = True,
    lr: float = 0.01,
    family: Family = "cifar",
) -> Run:
    """Return a run of one epoch of 400 steps.

    With momentum 0.9 and gradient 0.1 its layers could move by 4 times their length. The losses are those of the first
    200 steps, before the learning rate is divided; the last one stays to the end.
    """
    config = RunConfig(
        model=arm_network(arm, depth, family=family),
        data=DataConfig(data, train_images=train_images),
        recipe=recipe("digits", lr=lr, epochs=1),
        seed=seed,
    )
    result: dict[str, Any] = {"status": status, "steps": 400}
    if status == "done":
        assert train is not None
        unseen = train + 1 if test is None else test
        result |= {"train_error_pct": train, "val_error_pct": unseen, "test_error_pct": unseen}
    first_and_last = layer_stats(config.model, gradient=gradient), layer_stats(config.model, 400, gradient)
    return Run(
        directory=Path(f"{arm}-{depth}-{seed}"),
        config=config,
        status=status,
        start={"data": {"classes": CLASSES}},
        epochs=(_half_at_the_high_rate(losses, train or 90.0),) if status == "done" else (),
        result=result,
        layer_stats=first_and_last if has_layer_stats else (),
    )


def relabelled(runs: list[Run], order: list[int]) -> list[Run]:
    """Return the same records with shuffled labels: run i gets the configuration of run order[i]."""
    return [dataclasses.replace(run, config=runs[index].config) for run, index in zip(runs, order, strict=True)]
