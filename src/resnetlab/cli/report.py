"""`resnetlab report`: make the report of a study again from its records."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from resnetlab.cli.terminal import escape_name, print_json

if TYPE_CHECKING:
    from rich.console import Console

MAX_NAME_WITH_PARAMS = 18
"""Longest name of a network beside which a terminal of 80 columns has room for the number of parameters."""


@dataclass(frozen=True)
class Options:
    """Write results.csv, results.json, figures and report.html of a study again, from its run directories alone."""

    dir: Annotated[Path, tyro.conf.Positional]
    """Folder of the study."""
    json: bool = False
    """Print results.json instead of a table."""


def run(options: Options) -> int:
    """Write the report and print the table."""
    from resnetlab.cli.console import open_console
    from resnetlab.study.reports.report import write_report

    results = write_report(options.dir)
    print_results(results, options.dir, open_console(stderr=options.json), json_wanted=options.json)
    return 0


def print_results(results: dict[str, Any], out: Path, console: "Console", *, json_wanted: bool) -> None:
    """Print a study's table, its verdicts and the path of its report; or only its JSON, on standard output."""
    from resnetlab.cli.architecture_output import format_stats, print_architectures
    from resnetlab.cli.comparison_output import print_command, print_comparisons
    from resnetlab.cli.tables import table
    from resnetlab.study.verdicts.verdict import Verdict, without_repetition

    if json_wanted:
        print_json(results)
        return
    if "architectures" in results:
        print_architectures(results, out, console)
        return
    for data in dict.fromkeys(row["data"] for row in results["table"]):
        rows = [row for row in results["table"] if row["data"] == data]
        has_params = max(len(row["network"]) for row in rows) <= MAX_NAME_WITH_PARAMS
        errors = table(data, *["params"] * has_params, "train error %", "val error %", "test error %", "seeds")
        for row in rows:
            cells = (format_stats(row[f"{split}_error_pct"]) for split in ("train", "val", "test"))
            params = f"{row['params']:,}" if row["params"] else "–"
            errors.add_row(row["network"], *[params] * has_params, *cells, str(row["num_seeds"]))
        console.print()
        console.print(errors)
        for level in results["chance"]:
            if level["data"] == data:
                console.print(escape_name(level["sentence"]), highlight=False, width=min(80, console.width))
    console.print()
    width = min(80, console.width)
    for sentence in results["notes"]:
        console.print(escape_name(sentence), highlight=False, width=width)
    for verdict in without_repetition([Verdict(**entry) for entry in results["findings"]]):
        subject = f"{verdict.arm} networks on {verdict.data}"
        console.print(f"{subject}: {verdict.kind}", style="bold", highlight=False)
        console.print(verdict.sentence, highlight=False, width=width)
        print_command(verdict.command, console)
    print_comparisons(results, console)
    print_tables_2(results, console)
    # One published comparison for each network, the first; the page has all.
    first = {(entry["data"], entry["cell"]["network"]): entry for entry in reversed(results["published"])}
    for entry in (*results["constructions"], *reversed(first.values())):
        console.print()
        console.print(entry["sentence"], highlight=False, width=width)
    console.print(f"\nreport: {out / 'report.html'}", soft_wrap=True, highlight=False)


def print_tables_2(results: dict[str, Any], console: "Console") -> None:
    """Print the study's errors beside those of the paper's Table 2, if it has such networks."""
    from resnetlab.cli.architecture_output import format_stats
    from resnetlab.cli.tables import table

    for entry in results["tables_2"]:
        listing = table(entry["data"], "train error %", f"{entry['unseen_split']} error %", "paper, Table 2")
        for row in entry["rows"]:
            errors = (format_stats(row[f"{split}_error_pct"]) for split in ("train", "unseen"))
            listing.add_row(row["network"], *errors, f"{row['published_error_pct']:.2f}")
        console.print()
        console.print(listing)
        console.print(escape_name(entry["sentence"]), highlight=False, width=min(80, console.width))
