"""`resnetlab report`: draw a study again from its records alone."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Options:
    """Write results.csv, results.json, figures and report.html of a study again, from its run directories alone."""

    dir: Annotated[Path, tyro.conf.Positional]
    """Folder of the study."""
    json: bool = False
    """Print results.json instead of a table."""


def run(options: Options) -> int:
    """Write the report and print the table."""
    from rich.console import Console

    from resnetlab.study.report import write_report

    results = write_report(options.dir)
    print_results(results, options.dir, Console(stderr=options.json, markup=False), json_wanted=options.json)
    return 0


def print_results(results: dict[str, Any], out: Path, console: "Console", *, json_wanted: bool) -> None:
    """Print a study's table, its findings and where the report is; or its JSON, alone, on standard output."""
    from resnetlab.cli.tables import table

    if json_wanted:
        print(json.dumps(results, ensure_ascii=False))
        return
    for data in dict.fromkeys(line["data"] for line in results["table"]):
        errors = table(data, "params", "train error %", "val error %", "test error %", "seeds")
        for line in (line for line in results["table"] if line["data"] == data):
            spreads = (_spread(line[f"{split}_error_pct"]) for split in ("train", "val", "test"))
            params = f"{line['params']:,}" if line["params"] else "–"
            errors.add_row(line["network"], params, *spreads, str(line["num_seeds"]))
        console.print()
        console.print(errors)
    console.print()
    for finding in results["findings"]:
        where = f"{finding['arm']} networks on {finding['data']}"
        console.print(f"{where}: {finding['kind']}", style="bold", highlight=False)
        console.print(finding["sentence"], highlight=False, width=min(80, console.width))
    first = {(one["data"], one["cell"]["network"]): one for one in reversed(results["published"])}
    for one in (*results["constructions"], *reversed(first.values())):  # the page has the others
        console.print()
        console.print(one["sentence"], highlight=False, width=min(80, console.width))
    console.print(f"\nreport: {out / 'report.html'}", soft_wrap=True, highlight=False)


def _spread(value: dict[str, Any] | None) -> str:
    if value is None:
        return "–"
    return f"{value['mean']:.2f}" + ("" if value["std"] is None else f" ±{value['std']:6.2f}")
