"""The steps of each layer over the whole run: which layers a step overwrites, and which hardly move.

One number for a network hides both. In plain-56 on digits the median layer looks sound at the first step, while that
step is 17 times as long as the weights of the first convolution, which then hardly moves for the rest of the run.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from resnetlab.study.results import Run
from resnetlab.study.run_metrics import total_steps, unknown_steps_reason
from resnetlab.study.verdicts.rules import MIN_MOVEMENT, OVERWRITING_UPDATE, SOUND_SHARE

FITTED_LOSS = 0.1
"""Share of the first loss below which gradients are small because the training set is fitted."""
STALL = 0.25
"""Share of the samples that a layer must stall for, without a break."""


@dataclass(frozen=True)
class LayerSteps:
    """The steps of the layers of one run, from its layer statistics."""

    num_layers: int
    longest: float
    """Longest step of a layer, in units of the norm of its weights; infinite if not finite. It is learning rate x
    gradient, without momentum, at the sampled steps."""
    longest_layer: str
    longest_step: int
    """The training step of `longest`, counted from 1."""
    overwritten: tuple[str, ...]
    """Layers that took a step of `OVERWRITING_UPDATE` times the norm of their weights, or longer."""
    stalled: tuple[str, ...]
    """Layers that hardly moved for a quarter of the samples in a row, while the training set was not fitted: at their
    gradients, the highest learning rate would not move them by `MIN_MOVEMENT` of their length in the whole run."""

    @property
    def overwritten_pct(self) -> float:
        """Share of the layers in `overwritten`, in %."""
        return 100 * len(self.overwritten) / self.num_layers

    @property
    def stalled_pct(self) -> float:
        """Share of the layers in `stalled`, in %."""
        return 100 * len(self.stalled) / self.num_layers

    @property
    def is_sound(self) -> bool:
        """Whether no layer was overwritten, and at most `SOUND_SHARE` of the layers stalled."""
        return not self.overwritten and len(self.stalled) <= SOUND_SHARE * self.num_layers


def layer_steps(run: Run) -> LayerSteps | None:
    """Return the steps of every layer of a run.

    `None` without layer statistics or steps, or if gradients do not tell the steps (`unknown_steps_reason`).
    """
    num_steps = total_steps(run)
    if not run.layer_stats or num_steps == 0 or unknown_steps_reason(run):
        return None
    names = run.layer_stats[0]["layers"]
    limit = run.config.recipe.max_update
    steps = [
        (min(stats["lr"] * ratio, limit or math.inf), name, stats["step"])
        for stats in run.layer_stats
        for name, ratio in zip(names, _ratios(stats), strict=True)
        if ratio is not None
    ]
    longest, layer, step = max(steps, key=lambda taken: taken[0], default=(0.0, names[0], 1))
    overwritten = {name for update, name, _ in steps if update >= OVERWRITING_UPDATE}
    return LayerSteps(
        num_layers=len(names),
        longest=longest,
        longest_layer=layer,
        longest_step=step,
        overwritten=tuple(name for name in names if name in overwritten),
        stalled=tuple(_stalled(run, names, num_steps)),
    )


def _ratios(stats: dict[str, Any]) -> list[float | None]:
    """Return ||gradient|| / ||weights|| of each layer: infinite if not finite, `None` if the weights are all 0."""
    return [
        math.inf if norm is None else ratio
        for norm, ratio in zip(stats["grad_norm"], stats["grad_to_weight"], strict=True)
    ]


def _stalled(run: Run, names: Sequence[str], num_steps: int) -> Iterator[str]:
    first_loss = run.layer_stats[0]["loss"]
    unfitted = [
        _ratios(stats)
        for stats in run.layer_stats
        if first_loss is None or stats["loss"] is None or stats["loss"] >= FITTED_LOSS * first_loss
    ]
    width = max(1, math.ceil(STALL * len(run.layer_stats)))
    reach = run.config.recipe.lr * num_steps / (1 - run.config.recipe.momentum)
    for index, name in enumerate(names):
        could_move = [math.inf if (ratio := ratios[index]) is None else reach * ratio for ratios in unfitted]
        windows = [could_move[start : start + width] for start in range(len(could_move) - width + 1)]
        if any(max(window) < MIN_MOVEMENT for window in windows):
            yield name
