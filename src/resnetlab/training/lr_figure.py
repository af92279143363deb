"""The figure of a learning-rate sweep."""

import io

import matplotlib as mpl

from resnetlab.figure_style import COLOURS, GREY, STYLE, add_caption, create_panels, set_panel_title
from resnetlab.training.lr_finder import LrCurve

PNG_DPI = 150
"""Resolution of the figure."""


def draw_lr_curve(curve: LrCurve, title: str) -> bytes:
    """Return the losses of a sweep against the learning rate, as PNG."""
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
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=PNG_DPI, metadata={"Software": None})
        return file.getvalue()
