"""Selection of the runs and layers that figures draw, and words that figures and captions share."""

from collections.abc import Iterable, Sequence
from typing import Any

from resnetlab.study.results import Run


def over_seeds(groups: Iterable[Sequence[Run]], statistic: str = "mean") -> str:
    """Return over how many seeds a statistic is: `mean of 3 seeds`, or `mean of 1 to 3 seeds` if networks differ.

    Args:
        groups: The runs of each network.
        statistic: `mean` or `median`.
    """
    counts = {len({run.seed for run in group}) for group in groups}
    if counts == {1}:
        return "one seed"
    few, many = min(counts), max(counts)
    return f"{statistic} of {many if few == many else f'{few} to {many}'} seeds"


def enumerate_words(words: Sequence[str]) -> str:
    """Return `a`, `a and b`, or `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def recorded_networks(runs: Sequence[Run]) -> list[Run]:
    """Return the runs with layer statistics; with more than two arms, only those of the deepest networks."""
    recorded = [run for run in runs if run.layer_stats]
    deepest = {arm: max(run.depth for run in recorded if run.arm == arm) for arm in {run.arm for run in recorded}}
    return recorded if len(deepest) <= 2 else [run for run in recorded if run.depth == deepest[run.arm]]


def main_path(stats: dict[str, Any]) -> list[int]:
    """Return the indices of the convolutions on the main path, which depth counts, in order."""
    return [index for index, name in enumerate(stats["layers"]) if "downsample" not in name]
