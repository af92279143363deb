"""Figure of the coverage curve: the error of the answered images against their share."""

import numpy as np
from matplotlib.figure import Figure

from resnetlab.evaluation.metrics import Evaluation
from resnetlab.figure_style import COLOURS, GREY, MIN_RANGE_PCT, add_caption, create_panels


def draw_coverage(evaluation: Evaluation, tall: bool) -> Figure | None:
    """Draw the error against coverage with its 95 % interval, and the threshold `reject_below` if there is one."""
    points = [(point.coverage_pct, point.error) for point in evaluation.coverage if point.error]
    if len(points) < 2 or not evaluation.top1.num_wrong:
        return None
    figure, (axes,) = create_panels(1, tall=tall, height=3.2)
    share, pct = [coverage for coverage, _ in points], [error.pct for _, error in points]
    low, high = np.array([error.interval_95_pct for _, error in points]).T
    axes.fill_between(share, low, high, color=COLOURS[0], alpha=0.15, linewidth=0)
    axes.plot(share, pct, "o-", color=COLOURS[0], markersize=4)
    rejection = evaluation.rejection
    if rejection and rejection.error:
        axes.plot(rejection.coverage_pct, rejection.error.pct, "D", color=COLOURS[1], markersize=7)
    axes.axhline(evaluation.top1.pct, color=GREY, linestyle="--", linewidth=1.2)
    axes.set(xlim=(0, 102), ylim=(0, 1.03 * max(high.max(), MIN_RANGE_PCT)))
    axes.set(xlabel="images answered, %", ylabel="top-1 error of these, %")
    axes.grid(alpha=0.25)
    lines = ["dot: the most confident images, band: 95 % interval", f"dashed: all images, {evaluation.top1.pct:.2f} %"]
    if rejection and rejection.error:
        lines.append(f"diamond: rejected below {rejection.threshold:g}")
    add_caption(figure, tuple(lines), tall=tall)
    return figure
