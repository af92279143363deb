"""Comparison of runs with published numbers: the difference, its significance, and the protocol of each side.

A run counts as a reproduction only if it was made by exactly the protocol of the published number. Any other run is
listed with every difference between the protocols.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from resnetlab.config import ModelConfig
from resnetlab.literature.paper import find_result
from resnetlab.literature.protocol import Protocol, PublishedResult
from resnetlab.literature.reproductions import independent_results
from resnetlab.models.zoo import model_config
from resnetlab.study.reports.run_protocol import protocol_of
from resnetlab.study.results import Run
from resnetlab.study.statistics.seed_stats import SeedStats, seed_stats

QUANTITY = "test_error_pct"
NUM_STD = 2.0
"""A difference of at most this many standard deviations agrees with the published number."""

PROTOCOL_FIELDS: dict[str, tuple[str, str]] = {
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
    "tested_epoch": ("tested epoch", "tested {}"),
    "views": ("views", "{}"),
    "precision": ("precision", "{}"),
}
"""Every field of `Protocol` with a single value: its name for display, and a format for its value."""

CELL_KEYS = {"std": "spread", "is_lower_bound": "above"}
PROTOCOL_KEYS = {"description": "words", "tested_epoch": "kept"}
"""Field to key of `results.json`, where they differ: keys are stable between versions."""


@dataclass(frozen=True)
class PublishedComparison:
    """Test errors of one network and protocol over seeds, compared with one published number."""

    data: str
    """Name of the data set; the last part of a path."""
    published: PublishedResult
    protocol: Protocol
    """Protocol of the runs."""
    measured: SeedStats
    """Test error over the seeds, in %."""

    @property
    def network(self) -> str:
        """Label of the network in reports: `plain-20`, `residual-56`."""
        return self.published.network.replace("plain", "plain-").replace("resnet", "residual-")

    @property
    def difference_points(self) -> float:
        """Measured minus published error, in percentage points."""
        return self.measured.mean - self.published.value

    @property
    def std_points(self) -> float | None:
        """The larger of the measured and the published standard deviation, in points; `None` if both are unknown."""
        return max((std for std in (self.measured.std, self.published.std) if std is not None), default=None)

    @property
    def agrees(self) -> bool | None:
        """Whether the difference is at most two standard deviations; `None` if no standard deviation is known.

        If the published number is only a lower bound: whether the measured error is above it.
        """
        if self.published.is_lower_bound:
            return self.difference_points > 0
        return None if self.std_points is None else abs(self.difference_points) <= NUM_STD * self.std_points

    @property
    def deviations(self) -> tuple[str, ...]:
        """Differences between the protocol of the runs and the published one, in words."""
        return protocol_differences(self.protocol, self.published.protocol)

    @property
    def is_reproduction(self) -> bool:
        """Whether the runs were made by the published protocol. `agrees` states whether the numbers agree too."""
        return not self.deviations

    @property
    def sentence(self) -> str:
        """The comparison in words, with the numbers and the rule."""
        published, measured, points = self.published, self.measured, self.difference_points
        seeds = "one seed" if measured.count == 1 else f"{measured.count} seeds"
        value = SeedStats(published.value, published.std, 1)
        number = f"above {published.value:g} %" if published.is_lower_bound else f"{value} %"
        if not self.is_reproduction:
            verdict = f"not a reproduction: {'; '.join(self.deviations)}"
        elif published.is_lower_bound:
            verdict = f"by the same protocol, {'as' if self.agrees else 'not as'} published"
        elif self.std_points is None:
            verdict = "by the same protocol; both are single values, so there is no standard deviation to compare with"
        else:
            verdict = (
                f"by the same protocol, {'within' if self.agrees else 'outside'} {NUM_STD:g} standard deviations "
                f"({NUM_STD * self.std_points:.2f} points)"
            )
        return (
            f"{self.network} on {self.data} ends at {measured} % test error over {seeds}, {abs(points):.2f} points "
            f"{'above' if points > 0 else 'below'} the published ({published.reference}: {number}); {verdict}."
        )

    def as_json(self) -> dict[str, Any]:
        """Return the entry of `results.json`; its keys are stable between versions."""
        published = {name: getattr(self.published, name) for name in _field_names(PublishedResult)}
        published["protocol"] = _protocol_json(self.published.protocol)
        return {
            "data": self.data,
            "cell": {CELL_KEYS.get(name, name): value for name, value in published.items()},
            "protocol": _protocol_json(self.protocol),
            "ours": dataclasses.asdict(self.measured),
            "difference_points": self.difference_points,
            "inside": self.agrees,
            "deviations": self.deviations,
            "is_reproduction": self.is_reproduction,
            "sentence": self.sentence,
        }


def published_comparisons(runs: Sequence[Run]) -> list[PublishedComparison]:
    """Compare finished runs with the paper's number for their network, or with reproductions if it has none."""
    groups: dict[tuple[str, str, Protocol], list[float]] = {}
    for run in runs:
        key = _comparison_key(run)
        if key is not None:
            groups.setdefault(key, []).append(run.result[QUANTITY])
    comparisons = []
    for (data, network, protocol), errors in groups.items():
        paper, measured = find_result(network, QUANTITY), seed_stats(errors)
        if measured is not None:
            targets = independent_results(network, QUANTITY) if paper is None else (paper,)
            comparisons += [PublishedComparison(data, target, protocol, measured) for target in targets]
    return comparisons


def comparison_columns(run: Run, comparisons: Sequence[PublishedComparison]) -> dict[str, Any]:
    """Return a run's columns of `results.csv` from the comparisons of its study; `None` if nothing is comparable.

    The difference is the run's own; `paper_inside_spread` holds for all its seeds together. If the paper has no number,
    the first listed reproduction is used and named in `paper_where`. For a reproduction `paper_deviations` is empty.
    """
    key = _comparison_key(run)
    found = next((c for c in comparisons if (c.data, c.published.network, c.protocol) == key), None)
    return {
        "paper_error_pct": found and found.published.value,
        "paper_difference_points": found and run.result[QUANTITY] - found.published.value,
        "paper_inside_spread": found and found.agrees,
        "paper_where": found and found.published.reference,
        "paper_deviations": found and "; ".join(found.deviations),
    }


def protocol_differences(ours: Protocol, theirs: Protocol) -> tuple[str, ...]:
    """Return each difference between our protocol and another, and the fields that the other leaves unpublished.

    Examples: `200 steps instead of 64,000`, `no flips`.
    """
    differences, unknown = [], []
    for field, (name, text) in PROTOCOL_FIELDS.items():
        our_value, their_value = getattr(ours, field), getattr(theirs, field)
        if their_value is None:
            unknown.append(name)
        elif our_value != their_value:
            differences.append(f"{text.format(_format_value(our_value))} instead of {_format_value(their_value)}")
    our_augmentation, their_augmentation = ours.augmentation or (), theirs.augmentation or ()
    differences += [f"no {name}" for name in their_augmentation if name not in our_augmentation]
    differences += [f"with {name}" for name in our_augmentation if name not in their_augmentation]
    differences += [f"with {name}" for name in ours.extras if name not in theirs.extras]
    differences += [f"without {name}" for name in theirs.extras if name not in ours.extras]
    if unknown:
        differences.append(f"not published there: {', '.join(unknown)}")
    return tuple(differences)


def _comparison_key(run: Run) -> tuple[str, str, Protocol] | None:
    """Return data set, network and protocol, which the seeds of a comparison share; `None` if none is possible."""
    network, protocol = _published_network(run.config.model), protocol_of(run)
    if run.status != "done" or run.result.get(QUANTITY) is None or run.is_from_file or not network or not protocol:
        return None
    return run.data, network, protocol


def _published_network(model: ModelConfig) -> str | None:
    """Return the zoo's name of a 6n+2 network exactly as in the paper (plain, or option A), else `None`."""
    if (model.depth - 2) % 6:
        return None
    name = f"{'plain' if model.shortcut == 'none' else 'resnet'}{model.depth}"
    published = model_config(f"{name}-cifar")
    # The name does not matter, nor does the bottleneck stride, which basic blocks do not use.
    same = replace(model, name=published.name, bottleneck_stride=published.bottleneck_stride)
    return name if same == published else None


def _format_value(value: float | str | None) -> str:
    return value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _field_names(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _protocol_json(protocol: Protocol) -> dict[str, Any]:
    return {PROTOCOL_KEYS.get(name, name): value for name, value in dataclasses.asdict(protocol).items()}
