"""Captions of a study's figures, made from the same runs: they claim only what these runs and figures show."""

from collections.abc import Callable, Sequence

import numpy as np

from resnetlab.study.figures.curves import has_thin_lines
from resnetlab.study.figures.depth import ERRORS, measured_errors
from resnetlab.study.figures.gradients import COLOUR_TICKS, gradient_maps
from resnetlab.study.figures.responses import (
    CLOSE_PCT,
    close_responses,
    compare_with_paper,
    is_close,
    is_logarithmic,
    response_lines,
)
from resnetlab.study.figures.selection import enumerate_words, recorded_networks
from resnetlab.study.results import Run
from resnetlab.study.statistics.paired_comparison import WORST_ERROR_PCT
from resnetlab.study.statistics.seed_stats import two_figures


def training_caption(runs: Sequence[Run], title: str) -> str:
    """Return the caption of the error curves."""
    drawn = [run for run in runs if run.epochs and not run.is_from_file]
    sentences = [
        f"Error on {title} during training, as in the paper's Figure 6.",
        "Dashed: training error over the latest steps; solid: validation error at the end of each epoch.",
        _test_sentence(runs),
    ]
    if any(run.config.model.norm == "batch" for run in drawn):
        sentences.append(
            "Early validation errors can be high because batch normalisation's running averages lag behind the weights."
        )
    if any(has_thin_lines(group) for group in _by_network(drawn).values()):
        sentences.append(
            "The mean is over finished runs; a thin line is one run that did not finish, or steps of one run that "
            "others do not have."
        )
    if diverged := _diverged(drawn):
        sentences.append(f"Ended in NaN: {diverged}.")
    missing = _names(runs, [run for run in runs if run not in drawn and not run.is_from_file], without=drawn)
    if missing:
        sentences.append(f"{missing} ended before the first epoch did, so there is no curve.")
    if any(run.is_from_file for run in runs):
        sentences.append("Networks that started from a trained one are in the table only.")
    return " ".join(sentences)


def depth_caption(runs: Sequence[Run], title: str) -> str:
    """Return the caption of the errors against depth."""
    drawn = [run for run in runs if run.status in ("done", "diverged") and not run.is_from_file]
    sentences = [f"Final error on {title} against depth: if a line falls to the right, deeper is better."]
    if diverged := _diverged(drawn):
        sentences.append(f"A run that ended in NaN counts as {WORST_ERROR_PCT:g} %: {diverged}.")
    missing = _names(runs, [run for run in runs if run not in drawn and not run.is_from_file], without=drawn)
    if missing:
        sentences.append(f"{missing} did not finish and has no point.")
    return " ".join(sentences)


def gradients_caption(runs: Sequence[Run], title: str) -> str:
    """Return the caption of the heat maps: what colours mean, and which of crossed-out and grey cells there are."""
    from_scratch = [run for run in runs if not run.is_from_file]
    drawn = recorded_networks(from_scratch)
    maps = gradient_maps(drawn)
    low, high = min(COLOUR_TICKS), max(COLOUR_TICKS)
    sentences = [
        f"Gradient norms on {title}, one row for each convolution, the first at the bottom.",
        f"The colours are the same in every report, from {COLOUR_TICKS[low]} to {COLOUR_TICKS[high]}, so a network "
        "that learns has those of the middle.",
        "If gradients vanish, the lower rows, or all, are at the dark end; if they explode, at the bright end.",
    ]
    if any(not np.isfinite(values).all() for _, values in maps.values()):
        sentences.append("Crossed-out cells are not finite.")
    last = {steps[-1] for steps, _ in maps.values()}
    if len(last) > 1:
        sentences.append("Grey: nothing was recorded, because a run had ended.")
    return " ".join([*sentences, *_only_deepest(from_scratch)])


def responses_caption(runs: Sequence[Run], title: str) -> str:
    """Return the caption of the layer responses: their place, their scale, and which curves cover each other."""
    from_scratch = [run for run in runs if not run.is_from_file]
    drawn = recorded_networks(from_scratch)
    lines = response_lines(drawn)
    has_norm = all(run.config.model.norm != "none" for run in drawn)
    place = "after batch normalisation, before" if has_norm else "before"
    sentences = [
        f"Responses of the 3×3 layers on {title}, as in the paper's Figure 7: standard deviations {place} the ReLU and "
        "the addition, on a training batch of the last recorded step, mean over seeds."
    ]
    values = [value for line in lines.values() for value in line]
    close = close_responses(lines)
    if close:
        centre = float(np.median(values))
        count = sum(is_close(value, centre) for value in values)
        why = " Batch normalisation's scales start at 1 and move little in a short run." if has_norm else ""
        sentences.append(
            f"{count} of {len(values)} responses are within {CLOSE_PCT} % of {two_figures(centre)}, where the curves "
            f"cover each other; the close-ups show these responses alone.{why}"
        )
    elif is_logarithmic(values):
        sentences.append("The axis is logarithmic.")
    missing = _names(drawn, [run for run in drawn if (run.arm, run.depth) not in lines], without=())
    if missing:
        sentences.append(f"The responses of {missing} are not finite and have no curve.")
    return " ".join([*sentences, *compare_with_paper(lines), *_only_deepest(from_scratch)])


CAPTIONS: dict[str, Callable[[Sequence[Run], str], str]] = {
    "training": training_caption,
    "depth": depth_caption,
    "gradients": gradients_caption,
    "responses": responses_caption,
}
"""Functions of the runs on one data set and its name; the keys are those of `FIGURES`."""


def alternative_text(kind: str, runs: Sequence[Run], title: str) -> str:
    """Return the words that stand for a figure where it cannot be seen."""
    if kind == "depth":
        panels = enumerate_words([ERRORS[key] for key in measured_errors(runs)])
        return f"Final {panels} on {title} against the number of layers, one line for each arm."
    words = {
        "training": "Training and validation error against steps on {}: one panel for each arm, darker colours for "
        "deeper networks; the table below has the numbers.",
        "gradients": "Heat maps for {}: gradient norm of each convolution, first layer at the bottom, against steps; "
        "one panel for each network.",
        "responses": "Standard deviation of the response of each 3x3 layer on {}, in original order and sorted by "
        "magnitude.",
    }
    return words[kind].format(title)


def _test_sentence(runs: Sequence[Run]) -> str:
    """Return how often the test set was evaluated, from the results of the runs."""
    counts = {run.num_test_evaluations for run in runs if run.status == "done"}
    if not counts:
        return "The test set was not evaluated."
    if counts == {0}:
        return "There is no test set."
    if max(counts) == 1:
        return "The test set was evaluated at the end of each run."
    return (
        f"The test set was evaluated at the end of each run, and up to {max(counts)} times because finished runs were "
        "continued."
    )


def _only_deepest(runs: Sequence[Run]) -> list[str]:
    """Return the sentence that shallower networks were left out, if they were."""
    recorded = [run for run in runs if run.layer_stats]
    return ["Of each arm only the deepest network is drawn."] if len(recorded_networks(runs)) < len(recorded) else []


def _by_network(runs: Sequence[Run]) -> dict[tuple[str, int], list[Run]]:
    """Return the runs of each arm and depth."""
    found: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        found.setdefault((run.arm, run.depth), []).append(run)
    return found


def _diverged(runs: Sequence[Run]) -> str:
    """Return how many runs of each network ended in NaN: `1 of 3 runs of plain-56`; empty if none did."""
    words = []
    for (arm, depth), group in _by_network(runs).items():
        if count := sum(run.status == "diverged" for run in group):
            words.append(f"{count} of {len(group)} run{'s' * (len(group) != 1)} of {arm}-{depth}")
    return enumerate_words(words) if words else ""


def _names(runs: Sequence[Run], selected: Sequence[Run], *, without: Sequence[Run]) -> str:
    """Return the networks of the selected runs that no run of `without` has, in the order of `runs`."""
    others = {(run.arm, run.depth) for run in without}
    cells = {(run.arm, run.depth) for run in selected} - others
    names = dict.fromkeys(f"{run.arm}-{run.depth}" for run in runs if (run.arm, run.depth) in cells)
    return enumerate_words(list(names)) if names else ""
