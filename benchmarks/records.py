"""The records in docs/results: reading them, and Markdown tables of their numbers."""

import csv
import statistics
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "docs" / "results"


def markdown(*rows: Sequence[str]) -> str:
    """Return a table; the first row is its heading."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], f"|{'---|' * len(rows[0])}", *lines[1:]]).replace("|  |", "| |").replace("|  |", "| |")


def read(name: str) -> str:
    """Return the text of a record."""
    return (RECORDS / name).read_text()


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return mean and standard deviation; of one value the value."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def study_runs(file: str, arm: str, depth: int, deepened_from: str = "") -> list[dict[str, str]]:
    """Return the lines of a study's `results.csv` on one network, one for each seed."""
    with (RECORDS / file).open() as lines:
        wanted = (arm, str(depth), deepened_from)
        return [row for row in csv.DictReader(lines) if (row["arm"], row["depth"], row["deepened_from"]) == wanted]


def study_cells(file: str, arm: str, depth: int, splits: Sequence[str], deepened_from: str = "") -> list[str]:
    """Return mean and deviation of each split's error for one network of a study."""
    rows = study_runs(file, arm, depth, deepened_from)
    return [spread([float(row[f"{split}_error_pct"]) for row in rows]) for split in splits]
