"""Figures as PNG and SVG; files are written atomically."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Literal

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
    write_atomic(path, figure_bytes(figure, "svg" if path.suffix == ".svg" else "png"))


def figure_bytes(figure: "Figure", file_format: Literal["png", "svg"]) -> bytes:
    """Return a figure as the bytes of a file; the same figure gives the same bytes."""
    content = io.BytesIO()
    if file_format == "svg":
        figure.savefig(content, format="svg", metadata={"Date": None})
    else:
        figure.savefig(content, format="png", dpi=PNG_DPI)
    return content.getvalue()
