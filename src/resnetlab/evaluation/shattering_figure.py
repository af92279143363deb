"""Figure of shattered gradients: autocorrelation against distance, for networks and noises."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

from resnetlab.evaluation.shattering import Autocorrelation
from resnetlab.figure_style import COLOURS, GREY, STYLE, add_caption, create_panels, set_panel_title
from resnetlab.fonts import text_style
from resnetlab.system.figure_files import write_figure

NOISE_STYLES = {"white noise": ("#999999", ":"), "brown noise": ("#8c6d31", "--")}
"""Colour and line of each noise."""


def draw_shattering(curves: Sequence[Autocorrelation], title: str, folder: Path) -> list[Path]:
    """Draw the autocorrelations into `shattering.png` and `.svg` in `folder`; return the PNG.

    Paper: Balduzzi et al. (2017), Figure 2.
    """
    folder.mkdir(parents=True, exist_ok=True)
    title = title.replace("$", r"\$")  # a name is no formula
    with mpl.rc_context({**STYLE, **text_style([title])}):
        figure, (axes, *_) = create_panels(1, tall=True)
        networks = 0
        for curve in curves:
            colour, line = NOISE_STYLES.get(curve.label, (COLOURS[networks % len(COLOURS)], "-"))
            networks += curve.label not in NOISE_STYLES
            axes.plot(range(len(curve.values)), curve.values, color=colour, linestyle=line, label=curve.label)
        set_panel_title(axes, title)
        axes.set_xlabel("distance on the path, in points")
        axes.set_ylabel("autocorrelation")
        axes.set_ylim(-0.25, 1.05)
        axes.grid(axis="y", alpha=0.25, color=GREY)
        axes.legend(frameon=False, fontsize=8)
        add_caption(figure, ["gradients with respect to neighbouring inputs"], tall=True)
        write_figure(figure, folder / "shattering.png")
        write_figure(figure, folder / "shattering.svg")
    return [folder / "shattering.png"]
