"""Runs beside published numbers: how far off, whether inside the spread, by which protocol. No torch here.

A reproduction is a run made by the very protocol of the number beside it. Anything else is listed with every way in
which it differs, and is not called one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from resnetlab.config import ModelConfig, Recipe
from resnetlab.data.registry import CIFAR10
from resnetlab.literature.paper import find_result
from resnetlab.literature.protocol import BEST_ON_VAL, LAST_EPOCH, Protocol, PublishedResult
from resnetlab.literature.reproductions import independent_results
from resnetlab.models.zoo import model_config
from resnetlab.study.results import Run
from resnetlab.study.seed_stats import SeedStats, seed_stats

QUANTITY = "test_error_pct"
INSIDE = 2.0
"""A difference of at most so many standard deviations is inside the spread."""

SAID: dict[str, tuple[str, str]] = {
    "num_train": ("training images", "trained on {} images"),
    "num_val": ("validation images", "{} validation images"),
    "num_test": ("test images", "tested on {} images"),
    "image_size": ("image size", "images of {} pixels"),
    "steps": ("steps", "{} steps"),
    "batch_size": ("batch size", "batch {}"),
    "lr": ("learning rate", "lr {}"),
    "schedule": ("schedule", "lr {}"),
    "warmup": ("warm-up", "{}"),
    "momentum": ("momentum", "momentum {}"),
    "weight_decay": ("weight decay", "weight decay {}"),
    "normalise": ("normalisation", "{}"),
    "tested_epoch": ("tested epoch", "kept {}"),
    "views": ("views", "{}"),
    "precision": ("precision", "{}"),
}
"""Every field of `Protocol` that holds one value: what it is called, and how the value is said."""


@dataclass(frozen=True)
class PublishedComparison:
    """The seeds of one network by one protocol, beside one published number."""

    data: str
    """Name of the data set; of a path its last part."""
    cell: PublishedResult
    protocol: Protocol
    """How the runs were made."""
    ours: SeedStats
    """Test error over the seeds, in %."""

    @property
    def network(self) -> str:
        """What a person calls the network: `plain-20`, `residual-56`."""
        return self.cell.network.replace("plain", "plain-").replace("resnet", "residual-")

    @property
    def difference_points(self) -> float:
        """Ours less the published, in points."""
        return self.ours.mean - self.cell.value

    @property
    def spread_points(self) -> float | None:
        """The larger of our standard deviation and the published one, in points; `None` where neither is known."""
        return max((std for std in (self.ours.std, self.cell.std) if std is not None), default=None)

    @property
    def inside(self) -> bool | None:
        """Whether the difference is at most two standard deviations; `None` where no spread is known.

        Where only a bound is published: whether ours keeps to it.
        """
        if self.cell.is_lower_bound:
            return self.difference_points > 0
        return None if self.spread_points is None else abs(self.difference_points) <= INSIDE * self.spread_points

    @property
    def deviations(self) -> tuple[str, ...]:
        """In what the protocol of the runs differs from that of the cell, each way in words."""
        return protocol_differences(self.protocol, self.cell.protocol)

    @property
    def is_reproduction(self) -> bool:
        """Whether the runs were made by the cell's own protocol. `inside` says whether they also agree with it."""
        return not self.deviations

    @property
    def sentence(self) -> str:
        """The comparison in words, with the numbers and the rule."""
        cell, ours, points = self.cell, self.ours, self.difference_points
        runs = "one seed" if ours.count == 1 else f"{ours.count} seeds"
        published = f"above {cell.value:g} %" if cell.is_lower_bound else f"{SeedStats(cell.value, cell.std, 1)} %"
        if not self.is_reproduction:
            verdict = f"not a reproduction: {'; '.join(self.deviations)}"
        elif cell.is_lower_bound:
            verdict = f"by the same protocol, {'as' if self.inside else 'not as'} published"
        elif self.spread_points is None:
            verdict = "by the same protocol; single values on both sides have no spread to judge by"
        else:
            verdict = (
                f"by the same protocol, {'inside' if self.inside else 'outside'} the spread "
                f"({INSIDE:g} standard deviations: {INSIDE * self.spread_points:.2f} points)"
            )
        return (
            f"{self.network} on {self.data} ends at {ours} % test error over {runs}, {abs(points):.2f} points "
            f"{'above' if points > 0 else 'below'} the published ({cell.reference}: {published}); {verdict}."
        )


def published_comparisons(runs: Sequence[Run]) -> list[PublishedComparison]:
    """Put the finished runs of each network and protocol beside the paper's number, or, where it has none, others'."""
    groups: dict[tuple[str, str, Protocol], list[float]] = {}
    for run in runs:
        key = _group(run)
        if key is not None:
            groups.setdefault(key, []).append(run.result[QUANTITY])
    listed = []
    for (data, network, protocol), errors in groups.items():
        cell, ours = find_result(network, QUANTITY), seed_stats(errors)
        if ours is not None:
            beside = independent_results(network, QUANTITY) if cell is None else (cell,)
            listed += [PublishedComparison(data, published, protocol, ours) for published in beside]
    return listed


def comparison_columns(run: Run, listed: Sequence[PublishedComparison]) -> dict[str, Any]:
    """Return a run's columns of `results.csv` from the comparisons of its study; `None` where nothing is comparable.

    The difference is the run's own; whether it is inside the spread is said of its seeds together. Where the paper has
    no number `paper_where` says whose it is: the first that is listed. For a reproduction `paper_deviations` is empty.
    """
    key = _group(run)
    found = next((one for one in listed if (one.data, one.cell.network, one.protocol) == key), None)
    return {
        "paper_error_pct": found and found.cell.value,
        "paper_difference_points": found and run.result[QUANTITY] - found.cell.value,
        "paper_inside_spread": found and found.inside,
        "paper_where": found and found.cell.reference,
        "paper_deviations": found and "; ".join(found.deviations),
    }


def protocol_differences(ours: Protocol, theirs: Protocol) -> tuple[str, ...]:
    """Return each way in which our protocol differs from another, and what of the other is not published.

    `200 steps instead of 64,000`, `no flips`.
    """
    found, unknown = [], []
    for field, (name, words) in SAID.items():
        here, there = getattr(ours, field), getattr(theirs, field)
        if there is None:
            unknown.append(name)
        elif here != there:
            found.append(f"{words.format(_say(here))} instead of {_say(there)}")
    here, there = ours.augmentation or (), theirs.augmentation or ()
    found += [f"no {way}" for way in there if way not in here]
    found += [f"with {way}" for way in here if way not in there]
    if unknown:
        found.append(f"not published there: {', '.join(unknown)}")
    return tuple(found)


def protocol_of(run: Run) -> Protocol | None:
    """Return how a finished run was made; `None` for other data than CIFAR-10, or a record that does not say.

    CIFAR-10 is told by its classes and the numbers of its images, whatever the folder is called and it came in. A
    subset of the training images is CIFAR-10 as well: that it is one is a deviation.
    """
    recipe = run.config.recipe
    try:
        data = run.start["data"]
        splits = {f"num_{split}": data[f"num_{split}"] for split in ("train", "val", "test")}
        if set(data["classes"]) != set(CIFAR10) or splits["num_test"] != 10_000:
            return None
        if splits["num_train"] + splits["num_val"] > 50_000:
            return None
        return Protocol(
            f"recipe {recipe.name}",
            "CIFAR-10",
            **splits,
            image_size=data["preprocessing"]["image_size"],
            steps=run.result["steps"],
            batch_size=recipe.batch_size,
            lr=recipe.lr,
            schedule=_schedule(recipe),
            warmup=_warmup(recipe),
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            augmentation=_augmentation(recipe),
            normalise="mean per pixel" if recipe.normalise == "pixel" else "mean and deviation per channel",
            tested_epoch=LAST_EPOCH if recipe.keep == "last" else BEST_ON_VAL,
            views="single view",
            precision=run.start["execution"]["precision"],
        )
    except KeyError:
        return None


def _group(run: Run) -> tuple[str, str, Protocol] | None:
    """Return what the seeds of a comparison have in common: data, network, protocol; `None` where none is possible."""
    network, protocol = _network(run.config.model), protocol_of(run)
    begun_elsewhere = run.config.weights is not None
    if run.status != "done" or run.result.get(QUANTITY) is None or begun_elsewhere or not network or not protocol:
        return None
    return run.data, network, protocol


def _network(model: ModelConfig) -> str | None:
    """Return the catalogue's name of a 6n+2 network exactly as in the paper (plain, or option A), else `None`."""
    if (model.depth - 2) % 6:
        return None
    name = f"{'plain' if model.shortcut == 'none' else 'resnet'}{model.depth}"
    published = model_config(f"{name}-cifar")
    same = replace(model, name=published.name, bottleneck_stride=published.bottleneck_stride)  # no bottleneck strides
    return name if same == published else None


def _schedule(recipe: Recipe) -> str:
    if recipe.schedule == "step" and recipe.milestones:
        return f"divided by 10 at {' and '.join(f'{100 * milestone:g} %' for milestone in recipe.milestones)}"
    return {
        "plateau": f"divided by 10 after {recipe.patience} epochs without a lower validation error",
        "linear": "falling to 0 along a line",
        "cosine": "falling to 0 along a cosine",
    }.get(recipe.schedule, "constant")


def _warmup(recipe: Recipe) -> str:
    ways = [f"lr rising over {recipe.warmup_steps} steps"] if recipe.warmup_steps else []
    if recipe.initial_lr is not None:
        ways.append(f"lr {recipe.initial_lr:g} until the training error is below {recipe.initial_lr_until_pct:g} %")
    return " and ".join(ways) or "no warm-up"


def _augmentation(recipe: Recipe) -> tuple[str, ...]:
    crops = {
        "pad": f"crops from {recipe.crop_padding} pixels of padding" if recipe.crop_padding else "",
        "scale": f"crops after scaling by {recipe.scale_range[0]} … {recipe.scale_range[1]} over 224",
        "resized": "crops of random scale and aspect ratio",
    }
    ways = (
        crops[recipe.crop],
        "flips" if recipe.flip else "",
        f"colour jitter of {recipe.jitter:g}" if recipe.jitter else "",
        f"PCA lighting of {recipe.lighting:g}" if recipe.lighting else "",
    )
    return tuple(way for way in ways if way)


def _say(value: float | str | None) -> str:
    return value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:g}"
