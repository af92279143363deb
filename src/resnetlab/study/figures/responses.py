"""The paper's Figure 7: standard deviations of layer responses, in original order and sorted."""

import itertools
import statistics
from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from resnetlab.figure_style import (
    GREY,
    LEGEND_ROW,
    add_caption,
    add_legend_below,
    create_panels,
    legend_columns,
    set_panel_title,
)
from resnetlab.study.arms import ordered_arms
from resnetlab.study.figures.colours import network_colour
from resnetlab.study.figures.selection import main_path, over_seeds, recorded_networks
from resnetlab.study.results import Run

LOG_RATIO = 100
"""Ratio of the largest to the smallest response from which their axis is logarithmic."""

CLOSE_PCT = 10
"""Responses within this many % of the median of all count as close together."""

MAX_SHARE = 0.25
"""Share of the axis that the close responses may occupy without a close-up of them."""

WIDEST, NARROWEST = 3.2, 1.2
"""Width of the first and of the last curve, in points: a curve stays visible below one that covers it."""

Lines = dict[tuple[str, int], list[float]]
"""Arm and depth to the responses of the layers."""


def plot_responses(runs: Sequence[Run], tall: bool) -> Figure | None:
    """Return the standard deviation of each 3x3 layer's response, in original order and sorted by magnitude.

    Responses are measured after BN (if there is one), before the ReLU and the addition, on a training batch of the last
    sample. With more than two arms only the deepest networks are drawn. If most responses would lie on each other, the
    first panel has all of them, and two more show the close ones alone in both orders: sorted, the curves of plain and
    residual networks lie apart, though each zigzags in the original order.

    Paper: Figure 7.
    """
    runs = recorded_networks(runs)
    lines = response_lines(runs)
    if not lines:
        return None
    close = close_responses(lines)
    columns = legend_columns((f"{arm}-{depth}" for arm, depth in lines), 2, width=4.2 if tall else 3.6)
    height = 2.9 + LEGEND_ROW * -(-len(lines) // columns)
    figure, panels = create_panels(3 if close else 2, tall=tall, height=height)
    titles = (
        ("original order", "original order, close-up", "sorted, close-up") if close else ("original order", "sorted")
    )
    depths = sorted({depth for _, depth in lines})
    for axes, title in zip(panels, titles, strict=False):
        for index, ((arm, depth), line) in enumerate(lines.items()):
            values = sorted(line, reverse=True) if "sorted" in title else line
            width = WIDEST + (NARROWEST - WIDEST) * index / max(1, len(lines) - 1)
            colour = network_colour(arm, depth, depths)
            axes.plot(range(1, len(line) + 1), values, color=colour, linewidth=width, label=f"{arm}-{depth}")
        set_panel_title(axes, title)
        axes.set_xlabel("layer, by magnitude" if "sorted" in title else "layer")
        axes.set_ylabel("standard deviation")
        axes.grid(axis="y", alpha=0.25, color=GREY)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        _set_limits(axes, lines)
    if close:
        margin = 0.08 * (close[1] - close[0]) or 0.01
        for axes in panels[1:]:
            axes.set_ylim(close[0] - margin, close[1] + margin)
    add_legend_below(panels[0], ncols=columns)
    has_norm = all(run.config.model.norm != "none" for run in runs)
    groups = [[run for run in runs if (run.arm, run.depth) == network] for network in lines]
    place = "after BN, before ReLU and addition" if has_norm else "before ReLU and addition"
    add_caption(figure, (f"standard deviation of each 3×3 layer's response, {over_seeds(groups)}", place), tall=tall)
    return figure


def response_lines(runs: Sequence[Run]) -> Lines:
    """Return the responses of each network whose responses are finite, in the order of the legend."""
    networks = {
        (arm, depth): [run for run in runs if (run.arm, run.depth) == (arm, depth)]
        for arm in ordered_arms(run.arm for run in runs)
        for depth in sorted({run.depth for run in runs})
    }
    lines = {network: mean_responses(group) for network, group in networks.items() if group}
    return {network: line for network, line in lines.items() if line}


def median_responses(lines: Lines) -> dict[tuple[str, int], float]:
    """Return the median response of each network."""
    return {network: statistics.median(line) for network, line in lines.items()}


def compare_with_paper(lines: Lines) -> list[str]:
    """Return sentences that set the median responses beside the paper's two statements; none without both sides.

    Paper: section 4.2, analysis of layer responses: ResNets have generally smaller responses than plain networks, and
    the deeper ResNet has smaller ones.
    """
    medians = median_responses(lines)
    sentences = []
    depths = sorted(depth for arm, depth in medians if arm == "residual")
    pairs = [
        (depth, medians["plain", depth], medians["residual", depth]) for depth in depths if ("plain", depth) in medians
    ]
    if pairs:
        listed = ", ".join(f"{residual:.3g} and {plain:.3g} with {depth} layers" for depth, plain, residual in pairs)
        holds = _extent([residual / plain for _, plain, residual in pairs])
        sentences.append(
            "In the paper, residual networks have smaller responses than plain ones. Here the medians of residual and "
            f"plain networks are {listed}: {holds}."
        )
    if len(depths) > 1:
        listed = ", ".join(f"{medians['residual', depth]:.3g} with {depth} layers" for depth in depths)
        holds = _extent([medians["residual", b] / medians["residual", a] for a, b in itertools.pairwise(depths)])
        sentences.append(
            f"In the paper, deeper residual networks have smaller responses. Here the medians are {listed}: {holds}."
        )
    return sentences


def _extent(ratios: Sequence[float]) -> str:
    """Return in words whether responses are smaller, from ratios; those within `CLOSE_PCT` % of 1 show nothing."""
    smaller = [ratio < 1 - CLOSE_PCT / 100 for ratio in ratios]
    if all(is_close(ratio, 1) for ratio in ratios):
        return f"within {CLOSE_PCT} % of each other, so these runs do not show it"
    if all(smaller):
        return "as in the paper"
    return "in part as in the paper" if any(smaller) else "not as in the paper"


def close_responses(lines: Lines) -> tuple[float, float] | None:
    """Return the range of the responses that lie on each other on an axis of all, or `None` if they do not."""
    values = [value for line in lines.values() for value in line]
    centre = statistics.median(values)
    close = [value for value in values if is_close(value, centre)]
    if is_logarithmic(values) or len(lines) < 2 or len(close) < len(values) / 2:
        return None
    lowest, highest = min(close), max(close)
    return (lowest, highest) if highest - lowest < MAX_SHARE * max(values) else None


def is_close(value: float, centre: float) -> bool:
    """Return whether a response is within `CLOSE_PCT` of the centre."""
    return abs(value - centre) <= CLOSE_PCT / 100 * centre


def is_logarithmic(values: Iterable[float]) -> bool:
    """Return whether the responses have a logarithmic axis."""
    values = list(values)
    return max(values) > LOG_RATIO * min(values)


def mean_responses(runs: Sequence[Run]) -> list[float]:
    """Return the response of each 3x3 layer at the last sample, mean over runs; empty if a value is not finite."""
    last = [run.layer_stats[-1] for run in runs]
    rows = [row for row in main_path(last[0]) if last[0]["kernels"][row] == 3]
    columns = [[stats["response_std"][row] for stats in last] for row in rows]
    if any(value is None for column in columns for value in column):
        return []
    return [statistics.fmean(column) for column in columns]


def _set_limits(axes: Axes, lines: Lines) -> None:
    values = [value for line in lines.values() for value in line]
    if is_logarithmic(values):
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, 1.08 * max(values) or 1)  # a line at the largest value is drawn whole
