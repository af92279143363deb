"""Verdicts of a study: sentences that state which effects of depth its runs show, with their numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from resnetlab.study.results import Run
from resnetlab.study.run_metrics import epoch_selection, unseen_error
from resnetlab.study.statistics.paired_comparison import RunGroup, compare_errors, group_runs
from resnetlab.study.verdicts.depth_result import DepthResult, main_depth_result, pair_results
from resnetlab.study.verdicts.detectors import DETECTORS
from resnetlab.study.verdicts.missing_evidence import missing_evidence
from resnetlab.study.verdicts.overfitting import gaps_with_fewer_images
from resnetlab.study.verdicts.rules import DEGRADATION_POINTS, OVERFITTING_POINTS
from resnetlab.study.verdicts.run_checks import has_learnt, has_sound_gradients
from resnetlab.study.verdicts.sentences import gradients_text

WITH_SELECTED_EPOCHS = ("unstable", "overfitting")
"""Verdicts that hold for runs measured at an epoch that validation images selected, too."""


@dataclass(frozen=True)
class Verdict:
    """Verdict on one arm and data set, with the numbers that it rests on. Field names are keys of `results.json`."""

    data: str
    arm: str
    kind: str
    """A `kind` of `rules.RULES`."""
    sentence: str
    """The verdict in words, with its numbers."""
    command: str | None = None
    """The command that adds what is missing for a verdict; `None` if there is one."""
    one_depth: bool = False
    """Whether a second depth is what lacks for a verdict."""


def verdicts(runs: Sequence[Run]) -> list[Verdict]:
    """Return the verdicts on every arm and data set.

    Returns:
        All failing kinds that hold for an arm; if none does, `healthy` or `not enough evidence`. Of runs whose epoch
        validation images selected, only `WITH_SELECTED_EPOCHS`: the others rest on the training error at the end.
    """
    found, groups = [], group_runs(runs)
    for group in groups:
        selected = any(map(epoch_selection, group.runs))
        detectors = {kind: detect for kind, detect in DETECTORS.items() if not selected or kind in WITH_SELECTED_EPOCHS}
        sentences = {kind: sentence for kind, detect in detectors.items() if (sentence := detect(group))}
        if not sentences and not selected and (healthy := _healthy(group)):
            sentences = {"healthy": healthy}
        found += [Verdict(group.data, group.arm, kind, sentence) for kind, sentence in sentences.items()]
        if not sentences:
            found.append(Verdict(group.data, group.arm, "not enough evidence", *missing_evidence(group, groups)))
    return found


def without_repetition(found: Sequence[Verdict]) -> list[Verdict]:
    """Return the verdicts with those that only lack a second depth merged into one for each data set, at the end.

    A study of several arms at one depth compares the arms; it has one thing to say about depth, not one for each arm.
    """
    open_verdicts: dict[tuple[str, str], list[Verdict]] = {}
    others = []
    for verdict in found:
        if verdict.command is not None and verdict.one_depth:
            open_verdicts.setdefault((verdict.data, verdict.command), []).append(verdict)
        else:
            others.append(verdict)
    for group in open_verdicts.values():
        if len(group) > 1:
            sentence = (
                "there are runs of one depth only of each arm, so nothing is said about depth; name another with "
                "--depths."
            )
            merged = replace(group[0], arm=", ".join(verdict.arm for verdict in group), sentence=sentence)
            others.append(merged)
        else:
            others += group
    return others


def _healthy(group: RunGroup) -> str | None:
    """Return a sentence if every two depths, not only the end depths, show no failure of the deeper one."""
    main = main_depth_result(group)
    if main is None or not all(has_learnt(run) and has_sound_gradients(run) for run in group.runs):
        return None
    results = pair_results(group)
    if len(results) < len(group.depth_pairs()) or any(found.is_too_short or not found.is_as_good for found in results):
        return None
    rises = [unseen.mean for pair in group.depth_pairs() if (unseen := compare_errors(*pair, unseen_error))]
    if max(rises, default=0.0) >= OVERFITTING_POINTS:
        return None
    if any(wider.mean >= OVERFITTING_POINTS for _, _, wider in gaps_with_fewer_images(group)):
        return None
    deep = [main.pair.deep[seed] for seed in main.effect.points]
    return (
        f"{main.text}; a rise of {DEGRADATION_POINTS:g} points or more is ruled out for every two depths, and "
        f"gradients are sound in every run: {gradients_text(deep)}.{_better_text(main)}"
    )


def _better_text(main: DepthResult) -> str:
    """Return whether the deepest networks are better than the best shallower ones; empty if they do not fit better."""
    if not main.is_better:
        return ""
    unseen = compare_errors(*main.pair, unseen_error)
    if unseen is None or unseen.interval is None:
        return " The deeper networks fit their training set better."
    points = f"{unseen.mean:+.1f}".replace("-", "−")
    on_unseen = f"{points} points of error on unseen images (95 % interval {unseen.interval_text})"
    if unseen.is_clearly_below:
        return f" Deeper is better: {on_unseen}."
    gain = "no gain" if unseen.mean >= 0 else f"no clear gain: {unseen.doubt}"
    return f" The deeper networks fit their training set better; {on_unseen} are {gain}."
