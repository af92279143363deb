"""An HTML page with surfaces to turn: one file without external resources."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from resnetlab import __version__
from resnetlab.evaluation.landscapes.landscape_models import LandscapeResult
from resnetlab.system.atomic_files import write_atomic

DIGITS = 5
"""Significant digits of each value on the page."""


def write_page(path: Path, results: Sequence[LandscapeResult], labels: Sequence[str], *, title: str) -> None:
    """Write the page of planes atomically.

    Args:
        path: The HTML file.
        results: One plane for each network.
        labels: Their names.
        title: The data and the split.

    Raises:
        OSError: if the folder is not writable.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("resnetlab", "evaluation/landscapes"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    networks = [_network(result, label) for result, label in zip(results, labels, strict=True)]
    page = environment.get_template("landscape_page.html.j2").render(
        title=title, labels=labels, data=script_json(networks), version=__version__
    )
    write_atomic(path, page.encode(errors="replace"))


def script_json(value: Any) -> str:
    """Return JSON that may stand inside a script element: `<` and line separators are escaped."""
    text = json.dumps(value, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _network(result: LandscapeResult, label: str) -> dict[str, Any]:
    return {
        "label": label,
        "xs": [_round(value) for value in result.xs],
        "ys": [_round(value) for value in result.ys],
        "loss": [[_round(value) for value in row] for row in result.loss],
        "error": [[_round(value) for value in row] for row in result.error_pct],
        "states": [[_round(value) for value in state] for state in result.states],
    }


def _round(value: float) -> float | None:
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
