"""Output of `resnetlab diagnose --shattering`: the correlation of gradients at neighbouring inputs."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from resnetlab.cli.tables import table
from resnetlab.cli.terminal import print_json

if TYPE_CHECKING:
    from torch import Tensor

    from resnetlab.evaluation.shattering import Autocorrelation
    from resnetlab.models.resnet import ResNet

LAGS = (1, 2, 4, 8, 16, 32)
"""Distances in the table, in points; JSON and figure have all up to the last."""


def run_shattering(model: "ResNet", images: "Tensor", *, out: Path, path: Path, as_json: bool) -> int:
    """Measure, print and draw; return the exit status.

    Args:
        model: The trained network.
        images: Normalised images, at least 2.
        out: Folder for the figure.
        path: What the user named.
        as_json: Print JSON instead of a table.
    """
    from resnetlab.cli.evaluate_progress import ProgressBar
    from resnetlab.evaluation.shattering import measure_shattering
    from resnetlab.evaluation.shattering_figure import draw_shattering

    with ProgressBar(enabled=True) as bar:
        curves = measure_shattering(model, images, on_progress=bar.update)
    files = draw_shattering(curves, model.config.name, out)
    if as_json:
        rows = [{**asdict(curve), "half_lag": curve.half_lag} for curve in curves]
        output = {"network": model.config.name, "path": str(path), "autocorrelation": rows}
        print_json({**output, "figures": [str(file) for file in files]})
        return 0
    print_curves(model.config.name, curves)
    for file in files:
        print(f"figure: {file}")
    return 0


def print_curves(name: str, curves: "Sequence[Autocorrelation]") -> None:
    """Print the correlations at some distances, and the distance at which they fall below a half."""
    from resnetlab.cli.console import open_console
    from resnetlab.evaluation.shattering import MAX_LAG, NUM_POINTS

    console = open_console(highlight=False)
    width = min(80, console.width)
    console.print(f"{name}: correlation of the gradients at inputs 1 to {MAX_LAG} points apart", width=width)
    console.print()
    rows = table("network or noise", *map(str, LAGS), "below half at")
    for curve in curves:
        half = f"over {MAX_LAG}" if curve.half_lag is None else str(curve.half_lag)
        known = not math.isnan(curve.values[-1])
        cells = (
            [f"{round(curve.values[lag], 2) + 0.0:.2f}".replace("-", "−") for lag in LAGS]
            if known
            else ["–"] * len(LAGS)
        )
        rows.add_row(curve.label, *cells, half if known else "–")
    console.print(rows)
    console.print(
        f"straight paths of {NUM_POINTS} inputs between two images; near white noise the gradients are shattered: what "
        "helps one input says nothing about the next",
        style="dim",
        width=width,
    )
