"""Printed comparisons between the arms of a study: rankings, differences with intervals, and what is missing."""

import itertools
from typing import TYPE_CHECKING, Any

from resnetlab.cli.tables import table

if TYPE_CHECKING:
    from rich.console import Console

MAX_PAIRS = 10
"""Pairs of arms at one depth up to which the differences are printed; the report always has them."""


def print_comparisons(results: dict[str, Any], console: "Console") -> None:
    """Print the comparisons of `results.json`: for each data set and depth, training error and test error.

    Published comparisons of the same arms follow.

    The validation error stands in for a missing test error; the report has all three.
    """
    unseen = {row["data"]: "test" for row in results["comparisons"] if row["split"] == "test"}
    shown = [row for row in results["comparisons"] if row["split"] in ("train", unseen.get(row["data"], "val"))]
    width = min(80, console.width)
    for (data, depth, images), rows in itertools.groupby(shown, key=_condition):
        own = list(rows)
        subset = "" if images is None else f", {images:,} images"
        console.print(f"\narms on {data}{subset}, {depth} layers", style="bold", highlight=False)
        for ranking in results["rankings"]:
            if _condition(ranking) == (data, depth, images) and ranking["split"] in {row["split"] for row in own}:
                console.print(ranking["sentence"], highlight=False, width=width)
        if len({(row["first"], row["second"]) for row in own}) <= MAX_PAIRS:
            console.print(_differences(own))
            if own[0]["p_holm"] is not None:
                console.print(_p_note(own[0]["num_comparisons"]), style="dim", highlight=False, width=width)
    for ablation in results["published_ablations"]:
        console.print(f"\npublished: {ablation['sentence']}", highlight=False, width=width)
    for evidence in results["comparison_evidence"]:
        console.print(f"\narms on {evidence['data']}: {evidence['kind']}", style="bold", highlight=False)
        console.print(evidence["sentence"], highlight=False, width=width)
        print_command(evidence["command"], console)


def print_command(command: str | None, console: "Console") -> None:
    """Print a command on one line, however long, so that it can be copied."""
    if command is not None:
        console.print(f"  {command}", soft_wrap=True, highlight=False)


def _condition(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["data"], row["depth"], row["train_images"]


def _p_note(num_comparisons: int) -> str:
    corrected = (
        "of one comparison" if num_comparisons == 1 else f"after Holm's correction for {num_comparisons} comparisons"
    )
    return f"p {corrected}; clear: below 5 %, else a tie"


def _differences(rows: list[dict[str, Any]]) -> Any:
    listing = table("arms", "error", "points", "95 % from, to", "p", "", left=2)
    for row in rows:
        ends = row["interval_95"]
        p = row["p_holm"]
        listing.add_row(
            f"{row['second']} minus {row['first']}",
            row["split"],
            _signed(row["mean"], 2),
            "one seed" if ends is None else f"{_signed(ends[0], 1)} {_signed(ends[1], 1)}",
            "–" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}",
            "–" if p is None else "tie" if row["better"] is None else "clear",
        )
    return listing


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")
