"""The sentence of `not enough evidence`: why no other verdict holds, and the command that adds what lacks."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from resnetlab.study.arms import CAPPED, family_of
from resnetlab.study.run_metrics import epoch_selection, train_error, unknown_steps_reason, unseen_error
from resnetlab.study.statistics.paired_comparison import RunGroup, compare_errors
from resnetlab.study.study_command import Additions, command_obstacle, study_command, two_depths
from resnetlab.study.verdicts.degradation import control_cures
from resnetlab.study.verdicts.depth_result import (
    DepthResult,
    is_under_way,
    main_depth_result,
    pair_results,
    unlearnt_shallower,
)
from resnetlab.study.verdicts.overfitting import gaps_with_fewer_images
from resnetlab.study.verdicts.rules import DEGRADATION_POINTS, OVERFITTING_POINTS
from resnetlab.study.verdicts.run_checks import has_learnt, has_sound_gradients, run_issues
from resnetlab.study.verdicts.sentences import gradients_text, metric_range, network_name
from resnetlab.study.verdicts.training_progress import loss_fall_before_drop

MORE_SEEDS = 2
"""Factor on the number of seeds where an effect is within their variation."""
LONGER = 2
"""Factor on the length of runs that ended too early."""


class MissingEvidence(NamedTuple):
    """Why no verdict holds, and what to add."""

    sentence: str
    command: str | None
    """The `resnetlab study` command that adds it; `None` if no run would."""
    one_depth: bool
    """Whether a second depth is what lacks."""


def missing_evidence(group: RunGroup, groups: Sequence[RunGroup] = ()) -> MissingEvidence:
    """Return why no verdict holds for a group, the issues of its single runs, and the command that adds what lacks.

    Args:
        group: The runs of one arm.
        groups: All arms: those of one depth get the same command, which adds a depth to all of them.
    """
    reason, added = _reason(group)
    one_depth = group.extremes() is None
    if added is not None and one_depth:
        size = group.train_sizes[-1]
        others = [other for other in groups if other.data == group.data and other.extremes() is None]
        same = tuple(other.arm for other in others if other.depths(other.train_sizes[-1]) == group.depths(size))
        added = replace(added, arms=same or None)
    if added is not None and any(map(epoch_selection, group.runs)):
        added = replace(added, last_epoch=True)  # more runs of the same kind would decide nothing
    command, hint = None, ""
    if added is not None:
        command = study_command(group.runs, added)
        hint = "" if command else f" No command adds this: {command_obstacle(group.runs, added)}."
    return MissingEvidence(reason + hint + _issue_counts(group), command, one_depth)


def _reason(group: RunGroup) -> tuple[str, Additions | None]:
    result, extremes = main_depth_result(group), group.extremes()
    if extremes is None:
        reason = f"there are runs of one depth only, {group.runs[0].network}; name another with --depths."
        return reason, Additions(
            depths=two_depths(group.depths(group.train_sizes[-1]), family_of(group.runs[0].config.model)),
            num_seeds=_at_least_three(group),
        )
    if result is None:
        names = network_name(extremes.shallow), network_name(extremes.deep)
        return f"{names[0]} and {names[1]} have no seed in common that finished.", Additions()
    if result.effect.interval is None:
        reason = f"{result.text}, from one seed; use --seeds 3 or more."
        return reason, Additions(num_seeds=_at_least_three(group))
    for explain, remedy in REASONS:
        if text := explain(group, result):
            return text, remedy(group)
    return f"{result.text}, which allows more than one explanation; add seeds with --seeds.", _seeds(group)


def _at_least_three(group: RunGroup) -> int:
    return max(3, *(run.seed + 1 for run in group.runs))


def _seeds(group: RunGroup) -> Additions:
    return Additions(num_seeds=MORE_SEEDS * max(run.seed + 1 for run in group.runs))


def _longer(_: RunGroup) -> Additions:
    return Additions(longer=LONGER)


def _again(_: RunGroup) -> Additions:
    return Additions(again=True)


def _last_epoch(_: RunGroup) -> Additions:
    return Additions(last_epoch=True)


def _nothing(_: RunGroup) -> None:
    return None


def _control(group: RunGroup) -> Additions | None:
    if control_cures(group):
        return None
    if group.control is None and not group.arm.endswith(CAPPED):
        return Additions(arms=(group.arm, group.arm + CAPPED))
    return _seeds(group)


def _unknown_steps(group: RunGroup, result: DepthResult) -> str | None:
    setting = next(filter(None, map(unknown_steps_reason, group.runs)), None)
    if setting is None:
        return None
    return (
        f"{result.text}, but with {setting} the gradients do not tell the steps of the layers, so it is "
        "unknown whether gradients are sound; the verdicts that need this are for plain SGD, with one learning rate."
    )


def _selected_epochs(group: RunGroup, result: DepthResult) -> str | None:
    setting = next(filter(None, map(epoch_selection, group.runs)), None)
    if setting is None:
        return None
    return (
        f"{result.text}, but with {setting} the errors are those of an epoch that validation images selected, not of "
        "the end of training, so they say nothing about optimisation; measure the last epoch with --set keep=last "
        "early_stop_epochs=none."
    )


def _no_gradients(group: RunGroup, result: DepthResult) -> str | None:
    if all(has_sound_gradients(run) is not None for run in group.runs):
        return None
    return f"{result.text}, but no gradients were recorded, so it is unknown whether they vanish or explode."


def _too_short(group: RunGroup, result: DepthResult) -> str | None:
    short = next((found for found in (result, *pair_results(group)) if found.is_too_short), None)
    if short is None:
        return None
    shallow, deep = short.pair
    if is_under_way(deep):
        falls = metric_range(lambda run: 100 * (loss_fall_before_drop(run) or 0), deep.values())
        return (
            f"{short.text}, but {network_name(deep)} was still learning when the learning rate was lowered (its loss "
            f"fell by {falls} % over the last quarter of the steps before), so it may only need more steps; train "
            "longer with --epochs or --steps."
        )
    return (
        f"{short.text}, but the networks are under-trained: {network_name(shallow)} ends at "
        f"{metric_range(train_error, shallow.values())} % training error, and the loss still fell before the learning "
        "rate was lowered (or the record is too short to tell), so longer training may change this; train longer with "
        "--epochs or --steps."
    )


def _not_learnt(group: RunGroup, result: DepthResult) -> str | None:
    shallow, deep = result.pair
    if result.is_worse:
        shallow = unlearnt_shallower(group) or shallow
    if not all(map(has_learnt, shallow.values())):
        errors = metric_range(train_error, shallow.values())
        either = "" if any(map(has_learnt, deep.values())) else " either"
        return (
            f"{result.text}, but {network_name(shallow)} has not learnt{either} (training error "
            f"{errors} %), so this says nothing about depth."
        )
    if result.effect.mean >= DEGRADATION_POINTS or all(map(has_learnt, deep.values())):
        return None
    errors = metric_range(train_error, deep.values())
    return f"{result.text}, but the deeper networks have not learnt either (training error {errors} %)."


def _unsound_gradients(group: RunGroup, result: DepthResult) -> str | None:
    unsound = [run for run in group.runs if has_sound_gradients(run) is False]
    if not unsound:
        return None
    example = group.by_seed(unsound[-1].depth, unsound[-1].train_images)
    text = (
        f"{result.text}, and gradients are not sound in {len(unsound)} of {len(group.runs)} runs: in "
        f"{network_name(example)}, {gradients_text(list(example.values()))}."
    )
    if group.arm.endswith(CAPPED):
        return f"{text} The limit on the step of each layer does not make them sound."
    if group.control is None:
        arms = f"--arms {group.arm} {group.arm}{CAPPED}"
        return f"{text} Whether that is the cause is decided by a limit on the step of each layer: {arms}."
    if control_cures(group):
        return (
            f"{text} With the step of each layer limited ({group.control.arm}) it trains, but not in every deep "
            "run did a step overwrite a layer, so nothing shows that long steps are the cause."
        )
    return f"{text} The control arm {group.control.arm} does not decide whether that is the cause; add seeds."


def _other_depths(group: RunGroup, result: DepthResult) -> str | None:
    """Return a sentence on two depths, not those of the result, of which the deeper is not as good as the shallower."""
    for other in pair_results(group):
        if not other.is_as_good and other.pair != result.pair:
            return (
                f"{other.text}, while {result.text}: no rule says what depth does here; add depths between them, or "
                "seeds."
            )
    return None


def _unseen_rises(group: RunGroup, result: DepthResult) -> str | None:
    for pair in group.depth_pairs():
        unseen = compare_errors(*pair, unseen_error)
        if unseen is not None and unseen.mean >= OVERFITTING_POINTS:
            return (
                f"{result.text}, but {network_name(pair.deep)} errs by {unseen.mean:.1f} points more on "
                f"unseen images than {network_name(pair.shallow)} (interval: {unseen.interval_text}); whether it "
                "overfits is not clear. Add seeds, or train until both fit their training set."
            )
    return None


def _wider_gap(group: RunGroup, result: DepthResult) -> str | None:
    for few, _, wider in gaps_with_fewer_images(group):
        if wider.mean >= OVERFITTING_POINTS:
            return (
                f"{result.text}, but the gap to unseen images of {network_name(few)} is {wider.mean:.1f} "
                f"points wider than with more images (interval: {wider.interval_text}); whether it overfits is not "
                "clear. Add seeds."
            )
    return None


def _uncertain(_: RunGroup, result: DepthResult) -> str | None:
    if result.is_clear or result.is_as_good:
        return None
    return f"{result.text}: the seeds vary too much for a verdict; add seeds with --seeds."


REASONS: tuple[tuple[Callable[[RunGroup, DepthResult], str | None], Callable[[RunGroup], Additions | None]], ...] = (
    (_selected_epochs, _last_epoch),
    (_unknown_steps, _nothing),
    (_no_gradients, _again),
    (_too_short, _longer),
    (_not_learnt, _longer),
    (_unsound_gradients, _control),
    (_uncertain, _seeds),
    (_other_depths, _seeds),
    (_unseen_rises, _seeds),
    (_wider_gap, _seeds),
)
"""Explanations of a missing verdict, and what to add for each; the first that applies is given."""


def _issue_counts(group: RunGroup) -> str:
    """Return the issues of single runs with their counts: no evidence on depth, but hints for the reader."""
    counts = Counter(issue.kind for run in group.runs for issue in run_issues(run))
    issues = [f"{kind} ({count} of {len(group.runs)})" for kind, count in counts.most_common()]
    return f" Single runs show signs of: {', '.join(issues)}." if issues else ""
