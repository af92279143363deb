"""Terminal output of `resnetlab landscape`: loss at and around each network, and its curvature."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from resnetlab.cli.tables import table
from resnetlab.study.display import time_text
from resnetlab.study.statistics.seed_stats import two_figures

if TYPE_CHECKING:
    from rich.console import Console

    from resnetlab.evaluation.landscapes.landscape_models import LandscapeResult


def print_landscapes(
    results: "Sequence[LandscapeResult]", labels: Sequence[str], console: "Console", *, time_s: float
) -> None:
    """Print a row for each network: loss and error there, the range of the loss, and the Hessian's eigenvalues."""
    width = min(80, console.width)
    rows = table("network", "loss", "error %", "lowest", "highest", "eigenvalues", "along")
    for result, label in zip(results, labels, strict=True):
        losses = [loss for row in result.loss for loss in row if math.isfinite(loss)]
        loss, error = result.centre
        curvature = result.curvature
        rows.add_row(
            label,
            two_figures(loss),
            f"{error:.1f}",
            two_figures(min(losses, default=math.nan)),
            two_figures(max(losses, default=math.nan)),
            "" if curvature is None else ", ".join(map(two_figures, curvature.eigenvalues)) or "not converged",
            "" if curvature is None else ", ".join(map(two_figures, curvature.along)),
        )
    console.print()
    console.print(rows)
    console.print(
        "loss and error of the network, lowest and highest loss measured; the largest eigenvalues of the Hessian "
        "there, and its curvature along the directions, which is below the largest eigenvalue",
        style="dim",
        width=width,
    )
    for result, label in zip(results, labels, strict=True):
        if result.explained is not None:
            shares = " and ".join(f"{100 * share:.0f} %" for share in result.explained)
            console.print(f"{label}: the directions explain {shares} of the states' variance", width=width)
        infinite = sum(not math.isfinite(loss) for row in result.loss for loss in row)
        if infinite:
            console.print(f"note: {label}: the loss is not finite at {infinite:,} points", width=width)
        if result.num_reused:
            console.print(f"{label}: {result.num_reused:,} points were measured before", width=width)
    console.print(f"time: {time_text(time_s)}")
