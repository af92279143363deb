"""What `evaluate` prints: errors with intervals, calibration, the classes that fare worst."""

from rich.cells import cell_len, set_cell_size
from rich.console import Console

from resnetlab.cli.tables import table
from resnetlab.evaluation.html_report import EvaluationSummary
from resnetlab.evaluation.metrics import Evaluation

SHOWN = 12
"""Classes that the terminal lists, the worst first; the page has them all."""


def print_evaluation(evaluation: Evaluation, facts: EvaluationSummary, console: Console) -> None:
    """Print errors, calibration, and the classes that fare worst."""
    width = min(80, console.width)
    by = "" if set(facts.computed_by) <= {"torch fp32"} else f", computed by {' and '.join(facts.computed_by)}"
    headline = f"{facts.title}, {_split(facts)}: {evaluation.num_samples:,} images, {facts.protocol}{by}"
    console.print(headline, width=width)
    console.print()
    rates = {"top-1 error": evaluation.top1, f"top-{evaluation.top_k} error": evaluation.top5}
    for name, rate in rates.items():
        console.print(f"{name}  {rate.pct:6.2f} %   95 % interval {_interval(rate.interval_95_pct)}")
    if evaluation.ece_pct is not None and evaluation.mean_confidence_pct is not None:
        console.print(
            f"calibration  {evaluation.ece_pct:6.2f} points off; mean confidence "
            f"{evaluation.mean_confidence_pct:.2f} %, right {100 - evaluation.top1.pct:.2f} %"
        )
    loss = "not finite" if evaluation.loss is None else f"{evaluation.loss:6.4g} nats"
    console.print(f"loss         {loss}")
    print_classes(evaluation, console)
    for note in facts.notes:
        console.print(f"note: {note}", width=width)
    if facts.num_left_out:
        console.print(f"left out, since they cannot be read: {facts.num_left_out:,} images", width=width)


def print_classes(evaluation: Evaluation, console: Console) -> None:
    """Print the classes with the highest error, and what each is mostly taken for."""
    taken_for = {one.true: one for one in reversed(evaluation.confusions)}  # the most frequent is the last to be put in
    judged = [one for one in evaluation.per_class if one.error is not None]
    worst = sorted(judged, key=lambda one: -one.error.pct if one.error else 0)
    listing = table("class", "images", "error %", "95 % interval", "mostly taken for")
    for one in worst[:SHOWN]:
        assert one.error is not None
        most = taken_for.get(one.name)
        listing.add_row(
            _short(one.name, 22),
            f"{one.num_samples:,}",
            f"{one.error.pct:.2f}",
            _interval(one.error.interval_95_pct),
            _short(most.predicted, 18) if most else "",
        )
    listing.columns[-1].justify = "left"
    for column in listing.columns[1:-1]:  # where a terminal is narrow, names are cut and numbers are not
        column.min_width = max(map(len, map(str, (column.header, *column.cells))))
    console.print()
    console.print(listing)
    if len(worst) > SHOWN:
        console.print(f"… and {len(worst) - SHOWN:,} classes with less", style="dim")
    console.print()


def _split(facts: EvaluationSummary) -> str:
    return "all images" if facts.split == "all" else f"{facts.split} split"


def _interval(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.2f} to {interval[1]:.2f}"


def _short(name: str, width: int) -> str:
    """Cut a name to so many columns of a terminal; Chinese, Japanese and Korean letters take two."""
    return name if cell_len(name) <= width else f"{set_cell_size(name, width - 1).rstrip()}…"
