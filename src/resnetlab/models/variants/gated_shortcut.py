"""Gated shortcuts, as in highway networks: a 1x1 convolution decides how much of the shortcut passes.

Paper: He et al. (2016), "Identity Mappings in Deep Residual Networks", section 3.1, Figure 2 (c, d) and Table 1.
"""

import torch
from torch import Tensor, nn

from resnetlab.config import ModelConfig
from resnetlab.models.blocks import BasicBlock, Block, make_conv, relu

INITIAL_BIAS = -6.0
"""Initial bias of the gate: the better of those in Table 1. The shortcut is nearly open then."""


class GatedBlock(BasicBlock):
    """A basic block with a gate g = sigmoid(W_g x + b_g) of the shape of its output."""

    needs_shortcut = True

    def __init__(self, config: ModelConfig, in_channels: int, channels: int, *, stride: int) -> None:
        """Build the layers."""
        super().__init__(config, in_channels, channels, stride=stride)
        self.gate = make_conv(config, in_channels, channels, kernel=1, stride=stride, bias=True)

    @classmethod
    def initialise_network(cls, blocks: list[Block], head: nn.Linear) -> None:
        """Open the shortcuts."""
        for block in blocks:
            assert isinstance(block, GatedBlock)
            nn.init.constant_(block.gate.bias, INITIAL_BIAS)  # pyright: ignore[reportArgumentType]  # it has a bias

    @classmethod
    def identity_obstacle(cls, config: ModelConfig) -> str | None:
        """A sigmoid is never 0."""
        return "its gate never opens the shortcut completely"


class ExclusiveGatingBlock(GatedBlock):
    """y = ReLU(g F(x) + (1 - g) shortcut(x)), Figure 2 (c)."""

    def forward(self, x: Tensor) -> Tensor:
        """Mix F and shortcut."""
        assert self.downsample is not None
        gate = torch.sigmoid(self.gate(x))
        return relu(gate * self.residual(x) + (1 - gate) * self.downsample(x))


class ShortcutGatingBlock(GatedBlock):
    """y = ReLU(F(x) + (1 - g) shortcut(x)), Figure 2 (d)."""

    def forward(self, x: Tensor) -> Tensor:
        """Scale the shortcut only."""
        assert self.downsample is not None
        return relu(self.residual(x) + (1 - torch.sigmoid(self.gate(x))) * self.downsample(x))
