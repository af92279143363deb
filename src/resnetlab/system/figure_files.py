"""Figures in files, written atomically."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from resnetlab.system.atomic_files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PNG_DPI = 160
"""Resolution of a figure in PNG."""


def write_figure(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG or SVG, by the suffix; the same figure gives the same bytes.

    Raises:
        OSError: If the folder cannot be written. An older file is then unchanged.
    """
    content = io.BytesIO()
    if path.suffix == ".svg":
        figure.savefig(content, format="svg", metadata={"Date": None})
    else:
        figure.savefig(content, format="png", dpi=PNG_DPI)
    write_atomic(path, content.getvalue())
