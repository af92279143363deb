"""The table that `table6.py` prints from its records: the paper's test errors and ours."""

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from resnetlab.literature.paper import find_result
from table6_records import read_record
from table6_speed import SPEED

DEPTHS = (20, 32, 44, 56, 110)
"""Depths of the paper's Table 6."""


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Return the records of runs in a folder, without damaged ones; none if there is no folder."""
    found = [read_record(path) for path in sorted(folder.glob("*.json")) if path.name != SPEED]
    return [record for record in found if record["status"] != "damaged"]


def table(records: Sequence[dict[str, Any]]) -> str:
    """Return the table as Markdown: the paper's test error and ours in each protocol, mean and deviation over seeds."""
    columns = sorted({(record["recipe"], record["precision"]) for record in records})
    columns = columns or [("cifar-paper", "bf16"), ("cifar-paper", "fp32")]
    lines = [f"| network | paper | {' | '.join(f'{recipe}, {precision}' for recipe, precision in columns)} |"]
    lines.append(f"|---|---|{'---|' * len(columns)}")
    networks = [f"{arm}{depth}" for depth in DEPTHS for arm in ("plain", "resnet")]
    networks += sorted({record["network"] for record in records} - set(networks))
    for network in networks:
        paper = find_result(network, "test_error_pct")
        bound = "above " if paper is not None and paper.is_lower_bound else ""
        cells = [cell(records, network, *column) for column in columns]
        lines.append(f"| {network} | {'—' if paper is None else f'{bound}{paper.value:g}'} | {' | '.join(cells)} |")
    return "\n".join([*lines, *notes(records)])


def cell(records: Sequence[dict[str, Any]], network: str, recipe: str, precision: str) -> str:
    """Return the test error of one network in one protocol, and how many seeds it is of; `—` without a run."""
    key = (network, recipe, precision)
    runs = [record for record in records if (record["network"], record["recipe"], record["precision"]) == key]
    errors = [run["test_error_pct"] for run in runs if run["status"] == "done"]
    others = Counter(run["status"] for run in runs if run["status"] != "done")
    if not errors:
        statuses = ", ".join(others if len(runs) == 1 else (f"{count} {status}" for status, count in others.items()))
        return f"{statuses}, {max(run['step'] for run in runs):,} steps" if runs else "—"
    spread = f" ± {statistics.stdev(errors):.2f}" if len(errors) > 1 else ""
    ended = [f"{len(errors)} of {len(runs)}", *(f"{count} {status}" for status, count in others.items())]
    seeds = f" ({'; '.join(ended)})" if len(runs) > 1 else ""
    return f"{statistics.fmean(errors):.2f}{spread}{seeds}"


def notes(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the differences of each protocol from the paper's, in words: those that any of its runs has."""
    yield ""
    if not any(record["status"] == "done" for record in records):
        yield "No run has ended: the rows are empty."
    by_protocol: dict[tuple[str, str], dict[str, None]] = {}
    for record in records:
        if record.get("protocol_differences") is not None:
            seen = by_protocol.setdefault((record["recipe"], record["precision"]), {})
            seen |= dict.fromkeys(record["protocol_differences"])
    for (recipe, precision), differences in by_protocol.items():
        yield f"- {recipe}, {precision}: {'; '.join(differences) or 'the same protocol'}"
