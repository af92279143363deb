"""Evidence that is missing for a clear comparison between arms, and the command that adds it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from resnetlab.study.arms import family_of, ordered_arms
from resnetlab.study.grid import IMAGENET_DEPTHS
from resnetlab.study.results import Run
from resnetlab.study.statistics.arm_comparisons import MOST_SEEDS, SPLITS, ArmComparison, seeds_needed
from resnetlab.study.statistics.paired_comparison import group_runs
from resnetlab.study.statistics.rankings import uncompared_arms
from resnetlab.study.study_command import Additions, command_obstacle, study_command


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


def _missing(
    runs: Sequence[Run], arms: Sequence[str], comparisons: Sequence[ArmComparison]
) -> tuple[str, str | None] | None:
    """Return which comparisons lack, and the command that adds them; `None` if none does."""
    if not comparisons:
        text = f"arms {', '.join(arms)} have no depth and seed in common, so they are not compared"
        return _every_arm(text, runs)
    if apart := uncompared_arms(runs, comparisons):
        setting, first, second = apart[0]
        text = f"{first} and {second} of {setting.title} have no seed in common, so the arms are not ranked"
        return _every_arm(text, runs)
    if single := [comparison for comparison in comparisons if comparison.p_holm is None]:
        seeds = max(3, *(run.seed + 1 for run in runs))
        pair = f"{single[0].second} minus {single[0].first}"
        text = f"one seed says nothing about the difference between arms ({pair}); three or more do"
        return _with_command(text, runs, Additions(num_seeds=seeds))
    return None


def _every_arm(text: str, runs: Sequence[Run]) -> tuple[str, str | None]:
    """Return what makes every arm at every depth, or, if some arm cannot have some depth, at those that fit all."""
    if study_command(runs, Additions()) is not None:
        return _with_command(f"{text}; this makes every arm at every depth and seed", runs, Additions())
    depths = sorted({run.depth for run in runs})
    fits_all = 56 if family_of(runs[0].config.model) == "cifar" else IMAGENET_DEPTHS[-1]
    fitting = [depth for depth in depths if study_command(runs, Additions(depths=(depth,)))] or [fits_all]
    added = Additions(depths=tuple(fitting))
    if study_command(runs, added) is None:
        return _with_command(text, runs, Additions())
    layers = " and ".join(map(str, fitting))
    return _with_command(f"{text}; this makes every arm and seed at {layers} layers, which fit all arms", runs, added)


def _with_command(text: str, runs: Sequence[Run], added: Additions) -> tuple[str, str | None]:
    """Return a text that announces its command, or says why there is none."""
    command = study_command(runs, added)
    if command is not None:
        return f"{text}:", command
    return f"{text}. No command adds this: {command_obstacle(runs, added)}.", None


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
    text += f" If mean and deviation stay as they are, {num_seeds} seeds would separate {pair}, {setting.depth} layers)"
    return _with_command(text, runs, added)
