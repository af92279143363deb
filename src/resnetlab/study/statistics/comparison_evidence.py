"""Evidence that is missing for a clear comparison between arms, and the command that adds it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from resnetlab.study.arms import ordered_arms
from resnetlab.study.results import Run
from resnetlab.study.statistics.arm_comparisons import MOST_SEEDS, SPLITS, ArmComparison, seeds_needed
from resnetlab.study.statistics.paired_comparison import group_runs
from resnetlab.study.statistics.rankings import uncompared_arms
from resnetlab.study.study_command import Additions, study_command


@dataclass(frozen=True)
class ComparisonEvidence:
    """Evidence that the comparisons of one data set lack. Field names are keys of `results.json`."""

    data: str
    kind: Literal["not enough evidence", "ties"]
    """Whether comparisons lack, or only some of them are ties."""
    sentence: str
    command: str | None
    """The command that adds runs; `None` if more seeds would not help."""


def comparison_evidence(runs: Sequence[Run], comparisons: Sequence[ArmComparison]) -> list[ComparisonEvidence]:
    """Return what is missing for each data set with several arms, an arm without a partner, one seed or a tie."""
    found = []
    for data in sorted({run.data for run in runs}):
        own = [run for group in group_runs(runs) if group.data == data for run in group.runs]
        arms = ordered_arms(run.arm for run in own)
        if len(arms) < 2:
            continue
        compared = [comparison for comparison in comparisons if comparison.setting.data == data]
        ties = [comparison for comparison in compared if comparison.better is None]
        if missing := _missing(own, arms, compared):
            found.append(ComparisonEvidence(data, "not enough evidence", *missing))
        elif ties:
            found.append(ComparisonEvidence(data, "ties", *_tie_evidence(own, ties, len(compared))))
    return found


def _missing(runs: Sequence[Run], arms: Sequence[str], comparisons: Sequence[ArmComparison]) -> tuple[str, str] | None:
    """Return which comparisons lack, and the command that adds them; `None` if none does."""
    if not comparisons:
        text = f"arms {', '.join(arms)} have no depth and seed in common, so they are not compared"
        return f"{text}; this makes every arm at every depth and seed:", study_command(runs, Additions())
    if apart := uncompared_arms(runs, comparisons):
        setting, first, second = apart[0]
        text = f"{first} and {second} of {setting.title} have no seed in common, so the arms are not ranked"
        return f"{text}; this makes every arm at every depth and seed:", study_command(runs, Additions())
    if single := [comparison for comparison in comparisons if comparison.p_holm is None]:
        seeds = max(3, *(run.seed + 1 for run in runs))
        pair = f"{single[0].second} minus {single[0].first}"
        text = f"one seed says nothing about the difference between arms ({pair}); three or more do:"
        return text, study_command(runs, Additions(num_seeds=seeds))
    return None


def _tie_evidence(runs: Sequence[Run], ties: Sequence[ArmComparison], num: int) -> tuple[str, str | None]:
    text = f"{len(ties)} of {num} comparisons are ties."
    splits = {comparison.setting.split for comparison in ties}
    shown = {"train", "test" if "test" in splits else "val"}
    needed = [(count, tie) for tie in ties if tie.setting.split in shown and (count := seeds_needed(tie))]
    if not needed:
        widest = max(abs(end) for comparison in ties for end in comparison.interval or ())
        errors = " or ".join(words for split, words in SPLITS.items() if split in shown & splits)
        return (
            f"{text} At 95 %, each comparison alone, no difference of a tie exceeds {widest:.1f} points. If mean and "
            f"deviation stay as they are, {MOST_SEEDS} seeds separate no pair by {errors}.",
            None,
        )
    num_seeds, comparison = min(needed, key=lambda item: item[0])
    setting = comparison.setting
    pair = f"{comparison.first} and {comparison.second} ({abs(comparison.mean):.2f} points of {SPLITS[setting.split]}"
    added = Additions(arms=(comparison.first, comparison.second), depths=(setting.depth,), num_seeds=num_seeds)
    return (
        f"{text} If mean and deviation stay as they are, {num_seeds} seeds would separate {pair}, "
        f"{setting.depth} layers):",
        study_command(runs, added),
    )
