"""Dropout on the shortcut: a negative result of the paper, which names it a failure.

Paper: He et al. (2016), "Identity Mappings in Deep Residual Networks", section 3.1 and Table 1 ("dropout shortcut").
"""

from torch import Tensor

from resnetlab.config import ModelConfig
from resnetlab.models.blocks import BasicBlock, relu
from resnetlab.models.variants.step_noise import StepNoise

RATE = 0.5
"""Share of the shortcut's values that training sets to 0."""


class DropoutShortcutBlock(BasicBlock):
    """y = ReLU(F(x) + dropout(shortcut(x))): each value of the shortcut is 0 or doubled in training."""

    needs_shortcut = True

    def __init__(self, config: ModelConfig, in_channels: int, channels: int, *, stride: int) -> None:
        """Build the layers."""
        super().__init__(config, in_channels, channels, stride=stride)
        self.noise = StepNoise()

    def set_position(self, index: int, num_blocks: int) -> None:
        """Give each block its own random numbers."""
        self.noise.block = index

    @classmethod
    def identity_obstacle(cls, config: ModelConfig) -> str | None:
        """Training never passes the input on as it is."""
        return "training drops half of the values on its shortcut"

    def forward(self, x: Tensor) -> Tensor:
        """Add what dropout leaves of the shortcut."""
        assert self.downsample is not None
        branch, shortcut = self.residual(x), self.downsample(x)
        if self.training:
            kept = self.noise.uniform(shortcut) >= RATE
            shortcut = shortcut * kept.to(shortcut.dtype) / (1 - RATE)
        return relu(branch + shortcut)
