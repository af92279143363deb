"""The scenarios of the synthetic studies, each with its truth and the function that makes one study."""

import dataclasses
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

from resnetlab.study.results import Run
from synthetic_studies import (
    UNDECIDED,
    Draw,
    Shape,
    Study,
    capped,
    diverged,
    falling,
    fitted,
    grid,
    near,
    overwritten,
    unlearnt,
    worse,
)

DrawRuns = Callable[[random.Random], list[Run]]
"""Draws the runs of one study."""


class Scenario(NamedTuple):
    """A cause, the verdict that is true of it, and a function that makes the runs of one study."""

    truth: str
    draw: DrawRuns


def plain(shallow: Draw, deep: Draw, *, seeds: int | None = None, control: dict[int, Draw] | None = None) -> DrawRuns:
    """Draw plain networks of 20 and 56 layers, three to five seeds, and the control arm if given."""

    def draw(rng: random.Random) -> list[Run]:
        arms = {"plain": {20: shallow, 56: deep}, **(capped(control) if control else {})}
        return grid(rng, arms, seeds=seeds or rng.randint(3, 5))

    return draw


def mixed(good: Draw, bad: Draw, num_bad: int, seeds: int) -> DrawRuns:
    """Draw networks of which `num_bad` deep seeds are of another kind than the rest."""

    def draw(rng: random.Random) -> list[Run]:
        turns = iter([bad] * num_bad + [good] * seeds)
        return grid(rng, {"residual": {20: fitted, 56: lambda r: next(turns)(r)}}, seeds=seeds)

    return draw


def depths(*errors: float) -> DrawRuns:
    """Draw residual networks of 20, 56, 110 … layers with these training errors."""
    return lambda rng: grid(
        rng, {"residual": {n: near(error) for n, error in zip((20, 56, 110, 164), errors, strict=False)}}, seeds=3
    )


def few_images(rng: random.Random) -> list[Run]:
    """Draw networks that fit 50 images and err on unseen ones, and the same on all images."""
    few = grid(rng, {"residual": {20: near(0.2, 0.2, 25), 56: near(0.2, 0.2, 28)}}, seeds=3, images=50)
    return few + grid(rng, {"residual": {20: near(0.3), 56: near(0.3)}}, seeds=3)


def few_images_that_vary(rng: random.Random) -> list[Run]:
    """Draw the same with gaps that vary over seeds, as they do on 50 images."""
    vary = [lambda r, gap=gap: Shape(0.0, r.uniform(gap - 6, gap + 6)) for gap in (21, 24)]
    few = grid(rng, {"residual": {20: vary[0], 56: vary[1]}}, seeds=3, images=50)
    return few + grid(rng, {"residual": {20: near(0.3), 56: near(0.3)}}, seeds=3)


def without_gradients(rng: random.Random) -> list[Run]:
    """Draw a degrading study whose records have no layer statistics."""
    return [dataclasses.replace(run, layer_stats=()) for run in plain(fitted, worse)(rng)]


def noise(rng: random.Random) -> list[Run]:
    """Draw networks whose errors vary over seeds, not with depth."""

    def any_error(rng: random.Random) -> Shape:
        return Shape(rng.uniform(1, 40))

    return grid(rng, {"plain": {20: any_error, 56: any_error}}, seeds=rng.randint(2, 5))


def varied_control(rng: random.Random) -> list[Run]:
    """Draw networks whose first step overwrites layers, and whose control arm is cured in some seeds only."""
    turns = iter([fitted, worse, *rng.choices([fitted, worse], k=3)])
    control: dict[int, Draw] = {20: fitted, 56: lambda rng: next(turns)(rng)}
    return plain(fitted, overwritten, control=control)(rng)


ONE_STEEP: dict[int, float | None] = {0: 1e8}
MEDIAN_STEEP: dict[int, float | None] = dict.fromkeys(range(15), 1e9)
NOT_FINITE: dict[int, float | None] = dict.fromkeys(range(15))
CONTROL_WORSE: dict[int, Draw] = {20: fitted, 56: worse}
CONTROL_CURED: dict[int, Draw] = {20: fitted, 56: fitted}

SCENARIOS: dict[str, Scenario] = {
    "deeper fits worse, gradients sound": Scenario("degradation", plain(fitted, worse)),
    "12 / 4 / 30 % at 20 / 56 / 110 layers": Scenario("degradation", depths(12.0, 4.0, 30.0)),
    "first step overwrites layers; the control arm fails too": Scenario(
        "degradation", plain(fitted, overwritten, control=CONTROL_WORSE)
    ),
    "first step overwrites layers; the control arm cures it": Scenario(
        "exploding", plain(fitted, overwritten, control=CONTROL_CURED)
    ),
    "first step overwrites layers; no control arm": Scenario(UNDECIDED, plain(fitted, overwritten)),
    "first step overwrites layers; the control arm is cured in some seeds": Scenario(UNDECIDED, varied_control),
    "gradients of 1e-9 in every layer": Scenario("vanishing", plain(fitted, unlearnt(gradient=1e-9))),
    "gradients of 1e-12 from the second sample on": Scenario(
        "vanishing", plain(fitted, unlearnt(later=1e-12, stalled=20))
    ),
    "gradients of 1e-12 in two layers of twenty": Scenario(
        UNDECIDED, plain(fitted, lambda r: Shape(r.uniform(20, 60), later=1e-12, stalled=3))
    ),
    "one layer with a gradient of 1e8": Scenario(UNDECIDED, plain(fitted, unlearnt(first_layers=ONE_STEEP))),
    "one layer with a gradient of 1e8, fits all the same": Scenario(
        UNDECIDED, plain(fitted, lambda r: Shape(r.uniform(0, 1), first_layers=ONE_STEEP))
    ),
    "gradients of 1e9, does not learn": Scenario("exploding", plain(fitted, unlearnt(first_layers=MEDIAN_STEEP))),
    "gradients that are not finite, ends in NaN": Scenario(
        "exploding", plain(fitted, lambda r: Shape(None, first_layers=NOT_FINITE))
    ),
    "all deep runs end in NaN, gradients sound": Scenario("learning rate too high", plain(fitted, diverged)),
    "the loss of every run rises fivefold": Scenario(
        "learning rate too high", plain(unlearnt(rise=5.0), unlearnt(rise=5.0))
    ),
    "all deep runs end in NaN after gradients grew to 1e9": Scenario(
        "unstable", plain(fitted, lambda r: Shape(None, later=1e9, stalled=20))
    ),
    "1 of 3 deep runs ends in NaN, the others are fine": Scenario("unstable", mixed(fitted, diverged, 1, 3)),
    "2 of 4 deep runs end in NaN, the others are fine": Scenario("unstable", mixed(fitted, diverged, 2, 4)),
    "1 of 3 deep runs ends in NaN, the others fit worse": Scenario("unstable", mixed(worse, diverged, 1, 3)),
    "a shallow run ends in NaN": Scenario(
        "unstable",
        lambda rng: grid(rng, {"plain": {20: diverged, 56: fitted}}, seeds=1) + plain(fitted, fitted)(rng)[1:],
    ),
    "every run stops at 50 to 86 % while its loss falls": Scenario(
        "under-trained", plain(falling(50, 86), falling(50, 86))
    ),
    "the deeper stops later on its way down": Scenario("under-trained", plain(falling(30, 35), falling(50, 60))),
    "the shallow stops early, the deep has not begun": Scenario(UNDECIDED, plain(falling(40, 44), unlearnt())),
    "the deeper still learns fast when the rate drops": Scenario(
        UNDECIDED, plain(fitted, lambda r: Shape(r.uniform(30, 60), falls=r.uniform(0.15, 0.3)))
    ),
    "every depth fits": Scenario("healthy", plain(fitted, fitted)),
    "deeper is better": Scenario("healthy", depths(9.0, 6.0, 4.0)),
    "deeper is better, and the shallowest is still improving": Scenario(
        "healthy", lambda rng: grid(rng, {"residual": {20: falling(30, 35), 56: near(6.0), 110: near(3.0)}}, seeds=3)
    ),
    "a clear rise of half a point": Scenario("healthy", plain(near(0.5, 0.1), near(1.0, 0.1))),
    "every depth has the same wide gap": Scenario("healthy", plain(near(0.5, 0.3, 25), near(0.5, 0.3, 25))),
    "fitted so well that gradients are tiny": Scenario("healthy", plain(near(0.0, 0.0), near(0.0, 0.0))),
    "1 / 80 / 1 % at 20 / 56 / 110 layers": Scenario(UNDECIDED, depths(1.0, 80.0, 1.0)),
    "80 / 1 / 80 % at 20 / 56 / 110 layers": Scenario(UNDECIDED, depths(80.0, 1.0, 80.0)),
    "1 / 1 / 30 / 1 % at 20 / 56 / 110 / 164 layers": Scenario(UNDECIDED, depths(1.0, 1.0, 30.0, 1.0)),
    "the deeper fits as well and errs more on unseen images": Scenario(
        "overfitting", plain(near(1.5, 0.3, 3.5), near(1.5, 0.3, 28.5))
    ),
    "fitted, and errs 2 points more on unseen images": Scenario(
        "overfitting", plain(near(0.1, 0.1, 4.0), near(0.1, 0.1, 6.5))
    ),
    "2 / 0.1 / 0.1 % at 20 / 56 / 110 layers, the last errs more on unseen images": Scenario(
        "overfitting",
        lambda rng: grid(
            rng, {"residual": {20: near(2.0, 0.1, 6), 56: near(0.1, 0.1, 4.0), 110: near(0.1, 0.1, 7.5)}}, seeds=3
        ),
    ),
    "fits 50 images and errs on unseen ones": Scenario("overfitting", few_images),
    "fits 50 images and errs on unseen ones, the gap varies": Scenario("overfitting", few_images_that_vary),
    "errors that vary over seeds": Scenario(UNDECIDED, noise),
    "one seed of a degrading study": Scenario(UNDECIDED, plain(fitted, worse, seeds=1)),
    "one seed of an exploding study": Scenario(UNDECIDED, plain(fitted, unlearnt(first_layers=MEDIAN_STEEP), seeds=1)),
    "no layer statistics": Scenario(UNDECIDED, without_gradients),
    "no depth learns": Scenario(UNDECIDED, plain(unlearnt(), unlearnt())),
    "one depth": Scenario(UNDECIDED, lambda rng: grid(rng, {"plain": {56: worse}}, seeds=3)),
}


def draw_studies(per_scenario: int, seed: int = 0) -> Iterator[Study]:
    """Yield `per_scenario` studies of every scenario; the same arguments give the same studies."""
    for name, scenario in SCENARIOS.items():
        for number in range(per_scenario):
            rng = random.Random(f"{seed} {name} {number}")
            yield Study(name, scenario.truth, tuple(scenario.draw(rng)))
