"""Colours of a study's figures: the hue is the arm and the shade is the depth, in every figure."""

from collections.abc import Sequence

from matplotlib.colors import to_hex, to_rgb

from resnetlab.study.arms import arm_position

ARM_COLOURS = {
    "plain": "#0072b2",
    "plain-capped": "#d55e00",
    "residual": "#009e73",
    "residual-capped": "#e69f00",
    "A": "#cc79a7",
    "A-capped": "#882255",
    "B": "#56b4e9",
    "B-capped": "#332288",
    "C": "#8c6d31",
    "C-capped": "#999933",
    "bottleneck": "#555555",
    "bottleneck-capped": "#d62728",
    "preact": "#7f3fbf",
    "preact-capped": "#b58ae0",
    "no-last-relu": "#1b7a5a",
    "no-last-relu-capped": "#6cc4a1",
    "bn-after-addition": "#b3446c",
    "bn-after-addition-capped": "#e08fb0",
}
"""Arm to colour: first Okabe and Ito's palette, whose colours colour-blind readers can distinguish."""

OTHER_COLOURS = ("#1f4e79", "#c0504d", "#4f6228", "#7030a0", "#984807", "#31859c")
"""Colours of other arms, in turn: blocks of the user's own."""

LIGHTEST, DARKEST = 0.5, -0.35
"""Share of white in the shade of the shallowest network, and of black (negative) in that of the deepest."""


def arm_colour(arm: str) -> str:
    """Return the colour of an arm, also of one with a block of the user's own."""
    position, is_capped = arm_position(arm)
    return ARM_COLOURS.get(arm) or OTHER_COLOURS[(2 * position + is_capped) % len(OTHER_COLOURS)]


def network_colour(arm: str, depth: int, depths: Sequence[int]) -> str:
    """Return the colour of one network: the deeper, the darker the shade of its arm's colour.

    Args:
        arm: The arm.
        depth: One of `depths`.
        depths: All depths of the figure, ascending; a single one has the arm's own colour.
    """
    rank = depths.index(depth) / (len(depths) - 1) if len(depths) > 1 else LIGHTEST / (LIGHTEST - DARKEST)
    share = LIGHTEST + (DARKEST - LIGHTEST) * rank
    target = 1.0 if share > 0 else 0.0
    red, green, blue = (part + (target - part) * abs(share) for part in to_rgb(arm_colour(arm)))
    return to_hex((red, green, blue))
