"""Tables of plain and residual networks, computed from the `results.csv` of studies and the record of the segmentation.

Errors of each network on CIFAR-10, differences of two of them, and plain against residual on several data sets.
"""

import re
import statistics

from records import markdown, read, spread, study_cells, study_runs
from resnetlab.study.statistics.paired_comparison import PairedComparison

CIFAR = "cifar10-study.csv"
DEPTHS = (8, 20, 56)
SPLITS = ("train", "val", "test")
DATA_SETS = (
    ("digits", "default-study.csv", 20),
    ("digits", "default-study.csv", 56),
    ("CIFAR-10", CIFAR, 20),
    ("CIFAR-10", CIFAR, 56),
)
"""Data set, record and depth of each row of `data_sets`."""
SEGMENTATION = "segment-shapes-34.txt"
COLUMNS = ("plain", "residual", "difference")
"""Columns of each split in `data_sets`."""


def cifar10_errors() -> str:
    """Return the errors of plain and residual networks on CIFAR-10, with seeds, published error and time of a run."""
    rows = [("network", "seeds", *(f"{split} error" for split in SPLITS), "published test error", "minutes a run")]
    for arm in ("plain", "residual"):
        for depth in DEPTHS:
            if runs := study_runs(CIFAR, arm, depth):
                published = f"{runs[0]['paper_error_pct']} ({runs[0]['paper_where']})" if runs[0]["paper_where"] else ""
                minutes = f"{statistics.median(float(run['time_s']) for run in runs) / 60:.0f}"
                cells = study_cells(CIFAR, arm, depth, SPLITS)
                rows.append((f"{arm}-{depth}", str(len(runs)), *cells, published, minutes))
    return markdown(*rows)


def cifar10_differences() -> str:
    """Return what depth and the addition change: differences paired by seed, with 95 % intervals."""
    pairs = [(("plain", 56), ("plain", 20)), (("plain", 20), ("plain", 8))]
    pairs += [(("residual", 56), ("residual", 20)), (("residual", 20), ("residual", 8))]
    pairs += [(("residual", depth), ("plain", depth)) for depth in DEPTHS]
    rows = [("difference, points", "training error", "test error")]
    for first, second in pairs:
        train, test = (_difference(CIFAR, first, second, split) for split in ("train", "test"))
        if train and test:
            rows.append((f"{first[0]}-{first[1]} minus {second[0]}-{second[1]}", train, test))
    return markdown(*rows)


def data_sets() -> str:
    """Return plain against residual networks of equal depth on several data sets: errors, and residual minus plain.

    The last row is a segmentation: its error is 100 % minus the mean IoU on new images, and its training images never
    repeat.
    """
    rows = [("data set, layers", "seeds", *(f"{arm}, {split}" for split in ("train", "test") for arm in COLUMNS))]
    for title, file, depth in DATA_SETS:
        cells = []
        for split in ("train", "test"):
            cells += [study_cells(file, arm, depth, [split])[0] for arm in ("plain", "residual")]
            cells.append(_difference(file, ("residual", depth), ("plain", depth), split))
        rows.append((f"{title}, {depth}", str(len(study_runs(file, "plain", depth))), *cells))
    errors = {arm: _segmentation_errors(arm) for arm in ("plain", "residual")}
    cells = [spread(list(errors[arm].values())) for arm in errors]
    cells.append(_paired_difference(errors["residual"], errors["plain"]))
    rows.append(("segmentation of shapes, 34", str(len(errors["plain"])), "", "", "", *cells))
    return markdown(*rows)


def _segmentation_errors(arm: str) -> dict[int, float]:
    """Return 100 % minus the mean IoU for each seed."""
    lines = re.findall(rf"^{arm} +seed (\d+) +all stages +([\d.]+)", read(SEGMENTATION), re.MULTILINE)
    return {int(seed): 100 - float(iou) for seed, iou in lines}


def _difference(file: str, first: tuple[str, int], second: tuple[str, int], split: str) -> str:
    """Return the mean difference of one error of two networks of a study, given as arm and depth."""
    errors = [
        {int(run["seed"]): float(run[f"{split}_error_pct"]) for run in study_runs(file, *network)}
        for network in (first, second)
    ]
    return _paired_difference(*errors)


def _paired_difference(first: dict[int, float], second: dict[int, float]) -> str:
    """Return the mean difference of errors, by seed, over the seeds that both have; empty if they share none."""
    points = {seed: first[seed] - second[seed] for seed in first.keys() & second.keys()}
    if not points:
        return ""
    compared = PairedComparison(points)
    ends = compared.interval
    interval = "one seed" if ends is None else f"{ends[0]:.2f} to {ends[1]:.2f}"
    return f"{compared.mean:+.2f} ({interval})".replace("-", "−")
