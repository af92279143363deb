"""The tables of a study of depth, computed from its `results.csv`: errors of each network, and differences of two."""

import statistics

from records import markdown, study_cells, study_runs
from resnetlab.study.statistics.paired_comparison import PairedComparison

CIFAR = "cifar10-study.csv"
DEPTHS = (8, 20, 56)
SPLITS = ("train", "val", "test")


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
        train, test = (_difference(first, second, split) for split in ("train", "test"))
        if train and test:
            rows.append((f"{first[0]}-{first[1]} minus {second[0]}-{second[1]}", train, test))
    return markdown(*rows)


def _difference(first: tuple[str, int], second: tuple[str, int], split: str) -> str:
    """Return the mean difference of one error over the seeds that both networks have; empty if they share none."""
    errors = [
        {run["seed"]: float(run[f"{split}_error_pct"]) for run in study_runs(CIFAR, *network)}
        for network in (first, second)
    ]
    points = {int(seed): errors[0][seed] - errors[1][seed] for seed in errors[0].keys() & errors[1].keys()}
    if not points:
        return ""
    compared = PairedComparison(points)
    return f"{compared.mean:+.2f} ({compared.interval_text})".replace("-", "−")
