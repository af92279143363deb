"""Effects of depth and of the addition on each architecture, paired by seed, and what they mean together."""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from resnetlab.study.architectures.architecture_grid import ARCHITECTURE_SETTINGS
from resnetlab.study.results import Run
from resnetlab.study.statistics.arm_comparisons import (
    FIXED_SEEDS,
    LEVEL,
    MOST_SEEDS,
    SPLITS,
    ArmComparison,
    Setting,
    compare,
    error_pct,
    seeds_needed,
    with_correction,
)
from resnetlab.study.statistics.multiple_comparisons import mean_interval
from resnetlab.study.statistics.paired_comparison import RunsBySeed, group_runs
from resnetlab.study.statistics.seed_stats import seed_stats
from resnetlab.study.verdicts.rules import DEGRADATION_POINTS, UNDER_TRAINED_PCT

RULE = (
    "Each architecture has three comparisons of each error: plain deep minus plain shallow, residual deep minus "
    "residual shallow, and residual minus plain at the greater depth. A difference is clear if its p (paired Student's "
    f"t over seeds, two-sided) is below {100 * LEVEL:g} % after Holm's correction for all comparisons of one error, "
    "over all architectures; otherwise it is a tie. The interval is that of a single comparison, without the "
    "correction. Depth hurts if the training error of the plain networks clearly rises with it; the shallow ones must "
    f"end at {UNDER_TRAINED_PCT:g} % or less. There is no degradation to cure if the interval of the rise ends below "
    f"{DEGRADATION_POINTS:g} points; a smaller rise that is clear is named. The addition cures depth if it clearly "
    "lowers the error of the deep networks, and the interval of the rise with it ends below "
    f"{DEGRADATION_POINTS:g} points; it cures depth in part if it does not, and the error clearly rises with it, too. "
    "Between the two it lowers the error, and whether it cures depth fully is open. It "
    "does not cure depth if it raises the error, or if its interval excludes half of the rise. A run that ended in NaN "
    f"counts as 100 %. {FIXED_SEEDS}"
)
"""The rule in words, for reports."""

OUTCOMES = {
    "cures": "the addition cures depth",
    "cures in part": "the addition cures depth in part",
    "lowers the error": "the addition lowers the error of the deep network; whether it cures depth fully is open",
    "does not cure": "the addition does not cure depth",
    "no degradation": f"a rise of {DEGRADATION_POINTS:g} points or more with depth is ruled out without the addition",
    "not enough evidence": "not enough evidence",
}
"""Outcome to the words of a report."""


@dataclass(frozen=True)
class ArchitectureEffect:
    """The comparisons of one architecture on one error."""

    architecture: str
    """A key of `ARCHITECTURE_SETTINGS`."""
    split: str
    """A key of `arm_comparisons.SPLITS`."""
    plain: ArmComparison
    """Error of the deep plain network minus that of the shallow one."""
    residual: ArmComparison
    """The same with the addition."""
    addition: ArmComparison
    """Error of the deep residual network minus that of the deep plain one."""
    shallow_pct: float
    """Training error of the shallow plain networks, mean over seeds, in %."""

    @property
    def title(self) -> str:
        """Name of the architecture in reports."""
        return ARCHITECTURE_SETTINGS[self.architecture].title

    @property
    def comparisons(self) -> tuple[ArmComparison, ArmComparison, ArmComparison]:
        """The three comparisons."""
        return self.plain, self.residual, self.addition

    @property
    def outcome(self) -> str:
        """A key of `OUTCOMES`."""
        if not self.has_learnt or any(comparison.p_holm is None for comparison in self.comparisons):
            return "not enough evidence"
        if _excludes_rise(self.plain):
            return "no degradation"
        if self.undecided is not None:
            return "not enough evidence"
        if self.addition.better != self.addition.second:
            return "does not cure"
        if _excludes_rise(self.residual):
            return "cures"
        return "cures in part" if self.residual.better == self.residual.first else "lowers the error"

    @property
    def undecided(self) -> ArmComparison | None:
        """The first comparison that is a tie and leaves the result open."""
        if not _excludes_rise(self.plain) and self.plain.better is None:
            return self.plain
        low = self.addition.interval[0] if self.addition.interval else -math.inf
        return self.addition if self.addition.better is None and low <= -self.plain.mean / 2 else None

    @property
    def open_comparison(self) -> ArmComparison | None:
        """The comparison that more seeds could decide; `None` if the result is open for another reason, or is not."""
        if not self.has_learnt:
            return None
        if self.outcome == "not enough evidence":
            return self.undecided
        return self.residual if self.outcome == "lowers the error" else None

    @property
    def has_learnt(self) -> bool:
        """Whether the shallow plain networks have learnt; if not, nothing follows about depth."""
        return self.shallow_pct <= UNDER_TRAINED_PCT

    @property
    def sentence(self) -> str:
        """The three comparisons in words, with their intervals."""
        setting, error = ARCHITECTURE_SETTINGS[self.architecture], SPLITS[self.split]
        text = (
            f"From {setting.shallow} to {setting.deep} layers the {error} changes by {_words(self.plain)} without the "
            f"addition and by {_words(self.residual)} with it. At {setting.deep} layers the addition changes it by "
            f"{_words(self.addition)}."
        )
        if self.has_learnt or self.split != "train":
            return text + self._small_rises
        end = f"Shallow plain networks end at {self.shallow_pct:.1f} % training error"
        return f"{text} {end}: they have not learnt, so nothing follows about depth."

    @property
    def _small_rises(self) -> str:
        """The rises with depth that are clear but too small for degradation, as a sentence; empty if there is none."""
        rises = {"without": self.plain, "with": self.residual}
        found = [word for word, rise in rises.items() if rise.better == rise.first and _excludes_rise(rise)]
        if not found:
            return ""
        return f" A rise of less than {DEGRADATION_POINTS:g} points is clear {' and '.join(found)} the addition."

    def as_json(self) -> dict[str, Any]:
        """Return the entry of `results.json`; its keys are stable between versions."""
        return {
            "architecture": self.architecture,
            "title": self.title,
            "split": self.split,
            "outcome": self.outcome,
            "sentence": self.sentence,
            **{name: getattr(self, name).as_json() for name in ("plain", "residual", "addition")},
        }


def architecture_effects(runs: Sequence[Run]) -> list[ArchitectureEffect]:
    """Return the effects on training and test error of each architecture that has all four networks."""
    compared: list[tuple[str, str, float, tuple[ArmComparison, ArmComparison, ArmComparison]]] = []
    for name, setting in ARCHITECTURE_SETTINGS.items():
        groups = {group.arm: group for group in group_runs([run for run in runs if run.architecture == name])}
        if set(groups) < {"plain", "residual"}:
            continue
        networks = {
            f"{name}-{arm}-{depth}": groups[arm].by_seed(depth, None)
            for arm in ("plain", "residual")
            for depth in (setting.shallow, setting.deep)
        }
        errors = [error_pct(run, "train") for run in networks[f"{name}-plain-{setting.shallow}"].values()]
        shallow = seed_stats(errors)
        for split in ("train", "test"):
            found = _comparisons(networks, Setting(runs[0].data, setting.deep, None, split))
            if found is not None and shallow is not None:
                compared.append((name, split, shallow.mean, found))
    corrected = iter(with_correction([comparison for *_, comparisons in compared for comparison in comparisons]))
    return [
        ArchitectureEffect(name, split, next(corrected), next(corrected), next(corrected), shallow)
        for name, split, shallow, _ in compared
    ]


def missing_evidence(effects: Sequence[ArchitectureEffect], out: str, *options: str) -> tuple[str, str] | None:
    """Return what would decide an architecture that is not, as a sentence and a command; `None` if there is none.

    Args:
        effects: Effects of every architecture.
        out: Folder of the study.
        *options: Options that its runs were made with, as words of the command.
    """
    if unlearnt := [effect.title for effect in effects if effect.split == "train" and not effect.has_learnt]:
        words = ["resnetlab", "study", "--preset", "everywhere", *longer_options(options), "--out", f"{out}-longer"]
        return f"The shallow plain networks have not learnt ({', '.join(unlearnt)}); longer runs:", shlex.join(words)
    command = shlex.join(["resnetlab", "study", "--preset", "everywhere", *options, "--out", out, "--seeds"])
    undecided = [
        (effect, comparison)
        for effect in effects
        if effect.split == "train" and (comparison := effect.open_comparison) is not None
    ]
    if any(comparison.p_holm is None for _, comparison in undecided):
        return "One seed says nothing about a difference; three or more do:", f"{command} 3"
    needed = [(count, effect, tie) for effect, tie in undecided if (count := _seeds_to_decide(tie))]
    if not needed:
        return None
    count, effect, comparison = min(needed, key=lambda item: item[0])
    titles = ", ".join(effect.title for effect, _ in undecided)
    points = f"{abs(comparison.mean):.1f} points of {SPLITS[comparison.setting.split]}"
    decided = (
        f"separate {comparison.first} and {comparison.second} ({points})"
        if comparison is not effect.residual
        else f"show whether {comparison.second} still errs more than {comparison.first} ({points})"
    )
    return (
        f"Seeds differ too much for a result on {titles}. If mean and deviation stay as they are, {count} seeds would "
        f"{decided}:",
        f"{command} {count}",
    )


def _seeds_to_decide(comparison: ArmComparison) -> int | None:
    """Return the seeds from which a difference would be clear, or a rise excluded, if mean and deviation stayed."""
    counts = [seeds_needed(comparison)]
    if comparison.std is not None and comparison.mean < DEGRADATION_POINTS:
        more = range(len(comparison.points) + 1, MOST_SEEDS + 1)
        ends = ((count, mean_interval(comparison.mean, comparison.std, count, level=LEVEL)[1]) for count in more)
        counts.append(next((count for count, end in ends if end < DEGRADATION_POINTS), None))
    return min(filter(None, counts), default=None)


def longer_options(options: Sequence[str]) -> list[str]:
    """Return options of the command with twice the length: `--epochs` or `--steps`, or twice the longest recipe's."""
    words = list(options)
    for name in ("--epochs", "--steps"):
        if name in words:
            place = words.index(name) + 1
            words[place] = str(2 * int(words[place]))
            return words
    longest = max(setting.recipe.epochs for setting in ARCHITECTURE_SETTINGS.values())
    return ["--epochs", str(2 * longest), *words]


def _comparisons(
    networks: Mapping[str, RunsBySeed], setting: Setting
) -> tuple[ArmComparison, ArmComparison, ArmComparison] | None:
    plain, deep_plain, residual, deep_residual = networks.items()
    depth_plain = compare(setting, plain, deep_plain)
    depth_residual = compare(setting, residual, deep_residual)
    addition = compare(setting, deep_plain, deep_residual)
    if depth_plain is None or depth_residual is None or addition is None:
        return None
    return depth_plain, depth_residual, addition


def _excludes_rise(comparison: ArmComparison) -> bool:
    """Return whether the interval excludes a rise that counts as degradation."""
    return comparison.interval is not None and comparison.interval[1] < DEGRADATION_POINTS


def _words(comparison: ArmComparison) -> str:
    mean = f"{comparison.mean:+.1f}".replace("-", "−")
    if comparison.interval is None:
        return f"{mean} points (one seed)"
    tie = "; a tie" if comparison.better is None else ""
    return f"{mean} points (95 % interval {comparison.interval_text}{tie})"
