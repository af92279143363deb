"""Output of `resnetlab diagnose`: the layer statistics of one sample as a table."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from resnetlab.cli.tables import table
from resnetlab.study.statistics.seed_stats import two_figures

COLUMNS = {
    "grad_norm": "grad norm",
    "grad_to_weight": "/ weight",
    "activation_var": "variance",
    "dead_relu_pct": "dead %",
    "response_std": "response",
}
"""Field of the layer stats to the heading of its column."""


def print_layer_stats(stats: dict[str, Any], every_layer: bool, console: Console) -> None:
    """Print one sample: each layer, or the lowest and the highest value in each stage."""
    ratios = residual_ratio_by_layer(stats)
    columns = [*(stats[name] for name in COLUMNS), [ratios.get(name) for name in stats["layers"]]]
    headings = (*COLUMNS.values(), "F / x")
    loss = "not finite" if stats["loss"] is None else _format(stats["loss"])
    console.print(f"step {stats['step']:,}, loss {loss}" if stats["step"] else f"measured, loss {loss}")
    if every_layer:
        rows = table("layer", *headings)
        for index, name in enumerate(stats["layers"]):
            rows.add_row(name, *(_format(column[index]) for column in columns))
    else:
        rows = table("stage", "", *headings, left=2)
        for indices in layers_by_stage(stats["layers"]):
            name = stats["layers"][indices[0]].partition(".")[0]
            known = [[column[index] for index in indices if column[index] is not None] for column in columns]
            highest = [_format(max(values, default=None)) for values in known]
            if len(indices) == 1:
                rows.add_row(name, "", *highest)
            else:
                rows.add_row(name, "lowest", *(_format(min(values, default=None)) for values in known))
                rows.add_row("", "highest", *highest)
    console.print(rows)


def residual_ratio_by_layer(stats: dict[str, Any]) -> dict[str, float | None]:
    """Return the residual ratio of each block, by the name of the block's last convolution."""
    ratios = {}
    for block, ratio in zip(stats["blocks"], stats["residual_ratio"], strict=True):
        *_, last = (name for name in stats["layers"] if name.startswith(f"{block}.conv"))
        ratios[last] = ratio
    return ratios


def layers_by_stage(layers: Sequence[str]) -> list[list[int]]:
    """Return the indices of the layers of the stem, and of each stage."""
    stages = list(dict.fromkeys(name.partition(".")[0] for name in layers))
    return [[index for index, name in enumerate(layers) if name.partition(".")[0] == stage] for stage in stages]


def _format(value: float | None) -> str:
    return "–" if value is None else two_figures(value)
