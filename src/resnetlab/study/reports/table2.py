"""Table 2 of the paper beside a study: errors of plain and residual ImageNet networks of 18 and 34 layers."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from resnetlab.literature.paper import PUBLISHED
from resnetlab.study.arms import family_of
from resnetlab.study.results import Run
from resnetlab.study.run_metrics import train_error, unseen_error
from resnetlab.study.statistics.paired_comparison import (
    PairedComparison,
    RunGroup,
    RunsBySeed,
    compare_errors,
    group_runs,
)
from resnetlab.study.statistics.seed_stats import SeedStats, seed_stats

DEPTHS = (18, 34)
NAMES = {"plain": "plain{}", "residual": "resnet{}-A", "A": "resnet{}-A"}
"""Arm to the names of its networks in Table 2."""


@dataclass(frozen=True)
class Table2Row:
    """One network: its errors in the study, and the paper's. Field names are keys of `results.json`."""

    network: str
    """Label of the network: `plain-18`."""
    train_error_pct: SeedStats | None
    unseen_error_pct: SeedStats | None
    """Test error, or validation error if there is no test split."""
    published_error_pct: float
    """Top-1 error on ImageNet validation with 10 crops."""


@dataclass(frozen=True)
class Table2Change:
    """The change of an arm's errors from 18 to 34 layers, in points; above 0 the deeper network is worse."""

    arm: str
    train: PairedComparison
    unseen: PairedComparison
    published: float

    @property
    def sentence(self) -> str:
        """The change in words, with both sources."""
        return (
            f"16 more layers change the training error of {self.arm} networks by {_points(self.train)}, and their "
            f"error on unseen images by {_points(self.unseen)}; in the paper the latter changes by "
            f"{_signed(self.published)}."
        )


@dataclass(frozen=True)
class Table2:
    """The networks of Table 2 on one data set."""

    data: str
    unseen_split: Literal["test", "val"]
    """The split of the errors on unseen images: `val` if there is no test split."""
    rows: tuple[Table2Row, ...]
    changes: tuple[Table2Change, ...]

    @property
    def sentence(self) -> str:
        """Every change in words, and how far the numbers can be compared."""
        scope = "The paper's are top-1 errors on ImageNet with 10 crops: compare the changes, not the errors."
        return " ".join([*(change.sentence for change in self.changes), scope])

    def as_json(self) -> dict[str, Any]:
        """Return the entry of `results.json`."""
        fields = {"data": self.data, "unseen_split": self.unseen_split, "sentence": self.sentence}
        return {**fields, "rows": [dataclasses.asdict(row) for row in self.rows]}


def tables_2(runs: Sequence[Run]) -> list[Table2]:
    """Return the table of each data set on which plain or residual networks of 18 and 34 layers have ended."""
    networks = [run for run in runs if run.config.architecture is None and family_of(run.config.model) == "imagenet"]
    groups = [group for group in group_runs(networks) if group.arm in NAMES]
    tables = []
    for data in dict.fromkeys(group.data for group in groups):
        own = {group.arm: _by_depth(group) for group in groups if group.data == data}
        rows = [
            _row(arm, depth, by_depth[depth]) for depth in DEPTHS for arm, by_depth in own.items() if by_depth[depth]
        ]
        changes = [change for arm, by_depth in own.items() if (change := _change(arm, by_depth))]
        if rows:
            done = [run for run in networks if run.data == data and run.status == "done"]
            has_test = all(run.result.get("test_error_pct") is not None for run in done)
            tables.append(Table2(data, "test" if has_test else "val", tuple(rows), tuple(changes)))
    return tables


def published_error(arm: str, depth: int) -> float:
    """Return the paper's error of an arm and depth, in %."""
    name = NAMES[arm].format(depth)
    return next(result.value for result in PUBLISHED if (result.table, result.network) == ("Table 2", name))


def _by_depth(group: RunGroup) -> Mapping[int, RunsBySeed]:
    return {depth: group.by_seed(depth, group.train_sizes[-1]) for depth in DEPTHS}


def _row(arm: str, depth: int, runs: RunsBySeed) -> Table2Row:
    done = [run for run in runs.values() if run.status == "done"]
    return Table2Row(
        network=f"{arm}-{depth}",
        train_error_pct=seed_stats([train_error(run) for run in done]),
        unseen_error_pct=seed_stats([unseen_error(run) for run in done]),
        published_error_pct=published_error(arm, depth),
    )


def _change(arm: str, by_depth: Mapping[int, RunsBySeed]) -> Table2Change | None:
    shallow, deep = (by_depth[depth] for depth in DEPTHS)
    train, unseen = (compare_errors(shallow, deep, error) for error in (train_error, unseen_error))
    if train is None or unseen is None:
        return None
    return Table2Change(arm, train, unseen, published_error(arm, DEPTHS[1]) - published_error(arm, DEPTHS[0]))


def _points(change: PairedComparison) -> str:
    interval = f"95 % interval {change.interval_text}" if change.interval else change.interval_text
    return f"{_signed(change.mean)} points ({interval})"


def _signed(points: float) -> str:
    return f"{points:+.2f}".replace("-", "−")
