"""The figure of a learning-rate sweep."""

from pathlib import Path

import matplotlib as mpl

from resnetlab.figure_style import COLOURS, GREY, STYLE, add_caption, create_panels, set_panel_title
from resnetlab.system.figure_files import write_figure
from resnetlab.training.lr_finder import LrCurve


def write_lr_figure(curve: LrCurve, title: str, path: Path) -> None:
    """Write the losses of a sweep against the learning rate, as PNG or SVG by the suffix.

    Raises:
        OSError: If the folder cannot be written. An older file is then unchanged.
    """
    with mpl.rc_context(STYLE):
        figure, (axes, *_) = create_panels(1, tall=False)
        set_panel_title(axes, title)
        axes.plot(curve.lr, curve.loss, ".", color=COLOURS[4], markersize=4, label="loss of the batch")
        axes.plot(curve.lr, curve.smoothed, color=COLOURS[0], label="smoothed")
        axes.axvline(curve.lowest_lr, color=GREY, linestyle=":", label=f"lowest: {curve.lowest_lr:.3g}")
        sentences = ["one training step at each rate"]
        if curve.suggested_lr is not None:
            axes.axvline(curve.suggested_lr, color=COLOURS[1], label=f"suggested: {curve.suggested_lr:.3g}")
            sentences.append("suggested: a tenth of the rate with the lowest smoothed loss")
        low, high = min(curve.smoothed), max(curve.smoothed[0], min(curve.smoothed))
        axes.set_ylim(max(0.0, low - 0.2 * (high - low)), high + 0.6 * (high - low) + 1e-9)
        axes.set(xscale="log", xlabel="learning rate", ylabel="training loss, nats")
        axes.legend(frameon=False, fontsize=9)
        add_caption(figure, sentences, tall=False)
        write_figure(figure, path)
