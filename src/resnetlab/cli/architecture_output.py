"""Printed results of `resnetlab study --preset everywhere`: the effect of depth and addition on each architecture."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnetlab.cli.comparison_output import print_command
from resnetlab.cli.tables import table
from resnetlab.cli.terminal import escape_name
from resnetlab.study.architectures.architecture_effects import OUTCOMES

if TYPE_CHECKING:
    from rich.console import Console


def print_architectures(results: dict[str, Any], out: Path, console: "Console") -> None:
    """Print the table of errors, a verdict for each architecture, what ties lack, and the path of the report."""
    width = min(80, console.width)
    errors = table("digits", "params", "train error %", "test error %", "seeds")
    for row in results["table"]:
        params = f"{row['params']:,}" if row["params"] else "–"
        cells = (format_stats(row[f"{split}_error_pct"]) for split in ("train", "test"))
        errors.add_row(row["network"], params, *cells, str(row["num_seeds"]))
    console.print()
    console.print(errors)
    for sentence in (*(level["sentence"] for level in results["chance"]), *results["notes"]):
        console.print(escape_name(sentence), highlight=False, width=width)
    for effect in results["architectures"]:
        if effect["split"] == "train":
            title = f"\n{effect['title']}: {OUTCOMES[effect['outcome']]}"
            console.print(title, style="bold", highlight=False)
        console.print(effect["sentence"], highlight=False, width=width)
    if results["missing_evidence"]:
        console.print("\nnot enough evidence", style="bold", highlight=False)
        console.print(results["missing_evidence"]["sentence"], highlight=False, width=width)
        print_command(results["missing_evidence"]["command"], console)
    console.print(f"\nreport: {out / 'report.html'}", soft_wrap=True, highlight=False)


def format_stats(stats: dict[str, Any] | None) -> str:
    """Return mean and standard deviation of an entry of `results.json` for a table."""
    if stats is None:
        return "–"
    return f"{stats['mean']:.2f}" + ("" if stats["std"] is None else f" ±{stats['std']:6.2f}")
