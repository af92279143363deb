"""Terminal output of `resnetlab evaluate`: errors with intervals, calibration, and the classes with most errors."""

from rich.cells import cell_len, set_cell_size
from rich.console import Console

from resnetlab.cli.tables import table
from resnetlab.cli.terminal import escape_name
from resnetlab.evaluation.chance import NO_BETTER_THAN_CHANCE
from resnetlab.evaluation.metrics import Evaluation
from resnetlab.evaluation.summary import EvaluationSummary

MAX_CLASSES = 12
"""Maximum number of classes in the terminal, the worst first; the HTML page has all."""


def print_evaluation(evaluation: Evaluation, summary: EvaluationSummary, console: Console) -> None:
    """Print errors, calibration, and the classes with the highest errors."""
    width = min(80, console.width)
    runtimes = (
        "" if set(summary.computed_by) <= {"torch fp32"} else f", computed by {' and '.join(summary.computed_by)}"
    )
    split = "all images" if summary.split == "all" else f"{summary.split} split"
    headline = f"{summary.title}, {split}: {evaluation.num_samples:,} images, {summary.protocol}{runtimes}"
    console.print(headline, width=width)
    console.print()
    rates = {"top-1 error": evaluation.top1}
    if len(evaluation.classes) > evaluation.top_k:  # else no image is wrong
        rates[f"top-{evaluation.top_k} error"] = evaluation.top5
    for name, rate in rates.items():
        console.print(f"{name}  {rate.pct:6.2f} %   95 % interval {_format_interval(rate.interval_95_pct)}")
    _print_chance(evaluation, console, width)
    if evaluation.ece_pct is not None and evaluation.mean_confidence_pct is not None:
        console.print(
            f"calibration  {evaluation.ece_pct:6.2f} % ECE; mean confidence "
            f"{evaluation.mean_confidence_pct:.2f} %, accuracy {100 - evaluation.top1.pct:.2f} %"
        )
    if any(temperature != 1 for temperature in summary.temperatures):
        console.print(f"temperature  {', '.join(f'{temperature:.3f}' for temperature in summary.temperatures)}")
    if (rejected := evaluation.rejection) is not None:
        error = f"error of these {rejected.error.pct:.2f} %" if rejected.error else "no error"
        console.print(f"coverage     {rejected.coverage_pct:6.2f} % of the images at {rejected.threshold:g}, {error}")
    loss = "not finite" if evaluation.loss is None else f"{evaluation.loss:6.4g} nats"
    console.print(f"loss         {loss}")
    print_classes(evaluation, console)
    if evaluation.label_errors and evaluation.label_errors.count:
        console.print(
            f"likely label errors: {evaluation.label_errors.count:,} images; the page and --json list them", width=width
        )
    for note in summary.notes:
        console.print(f"note: {note}", width=width)
    if summary.num_left_out:
        console.print(f"left out, because they cannot be decoded: {summary.num_left_out:,} images", width=width)


def _print_chance(evaluation: Evaluation, console: Console, width: int) -> None:
    """Print the macro-averaged error if classes are unequal, and the chance level beside the errors."""
    macro, level = evaluation.macro_error_pct, evaluation.chance
    if evaluation.has_unequal_classes and macro is not None:
        console.print(f"macro error  {macro:6.2f} %   each class counts once, whatever its size")
    if level is not None:
        answer = escape_name(level.describe(evaluation.classes))
        console.print(f"chance       {level.error_pct:6.2f} %   by {answer}", width=width)
    if not evaluation.is_better_than_chance:
        console.print(NO_BETTER_THAN_CHANCE, width=width)


def print_classes(evaluation: Evaluation, console: Console) -> None:
    """Print the classes with the highest error, and the class that each is most often predicted as."""
    # confusions are in descending order, so the first of each class comes last here and wins
    most_confused = {confusion.true: confusion for confusion in reversed(evaluation.confusions)}
    rows = [row for row in evaluation.per_class if row.error is not None]
    rows.sort(key=lambda row: -row.error.pct if row.error else 0)
    listing = table("class", "images", "error %", "95 % interval", "predicted as")
    for row in rows[:MAX_CLASSES]:
        assert row.error is not None
        confusion = most_confused.get(row.name)
        listing.add_row(
            _shorten(row.name, 22),
            f"{row.num_samples:,}",
            f"{row.error.pct:.2f}",
            _format_interval(row.error.interval_95_pct),
            _shorten(confusion.predicted, 18) if confusion else "",
        )
    listing.columns[-1].justify = "left"
    console.print()
    console.print(listing)
    if len(rows) > MAX_CLASSES:
        console.print(f"… and {len(rows) - MAX_CLASSES:,} classes with fewer errors", style="dim")
    console.print()


def _format_interval(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.2f} to {interval[1]:.2f}"


def _shorten(name: str, width: int) -> str:
    """Cut a name to a number of terminal columns; Chinese, Japanese and Korean letters have two."""
    return name if cell_len(name) <= width else f"{set_cell_size(name, width - 1).rstrip()}…"
