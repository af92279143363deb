"""An exponential moving average of a network's weights (`Recipe.ema_decay`)."""

from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from resnetlab.models.resnet import ResNet

RAMP = 10
"""After n steps the decay is at most (1 + n) / (RAMP + n): the random initial weights leave the average soon."""


class WeightAverage:
    """A second network whose weights and buffers are the moving average of a network's.

    Args:
        model: The network that is trained.
        decay: Share of the average that stays at each step, from 0 to below 1.
    """

    def __init__(self, model: ResNet, decay: float) -> None:
        self._decay = decay
        self._averaged = AveragedModel(model, multi_avg_fn=self._average, use_buffers=True)

    @property
    def model(self) -> ResNet:
        """The network with the averaged weights."""
        return cast("ResNet", self._averaged.module)

    def update(self, model: ResNet) -> None:
        """Include the current weights of the trained network."""
        self._averaged.update_parameters(model)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averaged tensors and the number of updates."""
        return self._averaged.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._averaged.load_state_dict(state_dict)

    @torch.no_grad()
    def _average(self, averaged: Any, current: Any, num_averaged: Any) -> None:
        updates = int(num_averaged)
        decay = min(self._decay, (1 + updates) / (RAMP + updates))
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        else:  # a counter
            for mean, value in zip(averaged, current, strict=True):
                mean.copy_(value)
