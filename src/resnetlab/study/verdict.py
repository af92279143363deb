"""Verdicts of a study: sentences that state which effects of depth its runs show, with their numbers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from resnetlab.study.detectors import DETECTORS, effect_text, main_depth_effect, metric_range, network_name
from resnetlab.study.paired_comparison import RunGroup, group_runs
from resnetlab.study.results import Run
from resnetlab.study.rules import DEGRADATION_POINTS
from resnetlab.study.run_checks import has_learnt, has_sound_gradients, run_issues
from resnetlab.study.run_metrics import train_error


@dataclass(frozen=True)
class Verdict:
    """Verdict on one arm and data set, with the numbers that it rests on. Field names are keys of `results.json`."""

    data: str
    arm: str
    kind: str
    """A `kind` of `rules.RULES`."""
    sentence: str


def verdicts(runs: Sequence[Run]) -> list[Verdict]:
    """Return the verdicts on every arm and data set.

    Returns:
        All failing kinds that hold for an arm; if none does, `healthy` or `not enough evidence`.
    """
    found = []
    for group in group_runs(runs):
        sentences = {kind: sentence for kind, detect in DETECTORS.items() if (sentence := detect(group))}
        if not sentences:
            healthy = _healthy(group)
            missing = {"not enough evidence": _missing_evidence(group) + _issue_counts(group)}
            sentences = {"healthy": healthy} if healthy else missing
        found += [Verdict(group.data, group.arm, kind, sentence) for kind, sentence in sentences.items()]
    return found


def _healthy(group: RunGroup) -> str | None:
    effect, extremes = main_depth_effect(group), group.extremes()
    if effect is None or extremes is None or effect.interval is None or effect.interval[1] >= DEGRADATION_POINTS:
        return None
    deep = [extremes.deep[seed] for seed in effect.points]
    if not all(map(has_learnt, deep)) or not all(map(has_sound_gradients, deep)):
        return None
    better = " Deeper is better." if effect.interval[1] < 0 else ""
    return (
        f"{effect_text(extremes, effect)}; {DEGRADATION_POINTS:g} points or more are ruled out, and gradients are "
        f"sound.{better}"
    )


def _missing_evidence(group: RunGroup) -> str:
    """Return a sentence on what a verdict would need."""
    effect, extremes = main_depth_effect(group), group.extremes()
    if extremes is None:
        return f"there are runs of one depth only, {group.runs[0].network}; name another with --depths."
    if effect is None:
        return (
            f"{network_name(extremes.shallow)} and {network_name(extremes.deep)} have no seed in common that finished."
        )
    basis = effect_text(extremes, effect)
    if effect.interval is None:
        return f"{basis}, from one seed; use --seeds 3 or more."
    deep = [extremes.deep[seed] for seed in effect.points]
    if any(has_sound_gradients(run) is None for run in deep):
        return f"{basis}, but no gradients were recorded, so it is unknown whether they vanish or explode."
    if effect.interval[1] < DEGRADATION_POINTS and not all(map(has_learnt, deep)):
        errors = metric_range(train_error, deep)
        return f"{basis}, but the deeper networks have not learnt either (training error {errors} %)."
    return f"{basis}, which allows more than one explanation."


def _issue_counts(group: RunGroup) -> str:
    """Return the issues of single runs with their counts: no evidence on depth, but hints for the reader."""
    counts = Counter(issue.kind for run in group.runs for issue in run_issues(run))
    issues = [f"{kind} ({count} of {len(group.runs)})" for kind, count in counts.most_common()]
    return f" Single runs show signs of: {', '.join(issues)}." if issues else ""
