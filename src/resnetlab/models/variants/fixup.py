"""Fixup: training without normalisation, by an initialisation that scales with the depth, and learnt scalars.

Paper: Zhang et al. (2019), "Fixup Initialization: Residual Learning Without Normalization", section 3 and Figure 1.
"""

import torch
from torch import Tensor, nn

from resnetlab.config import ModelConfig
from resnetlab.models.blocks import BasicBlock, Block, make_conv, relu
from resnetlab.models.variants.scalars import Scale, Shift


class FixupBlock(BasicBlock):
    """F = a W2 (ReLU(W1 (x + b1) + b2) + b3) + b4, with learnt numbers a = 1 and b = 0 at first.

    W2 and the head start at 0, and W1 at He's deviation over sqrt(L), with L blocks: L^(-1/(2m-2)) for the m = 2 layers
    of a block. A projection reads x + b1 too.

    Differs: stem and head have a bias for each channel instead of one number.
    """

    needs_shortcut = True
    required_norm = "none"

    def __init__(self, config: ModelConfig, in_channels: int, channels: int, *, stride: int) -> None:
        """Build the layers."""
        super().__init__(config, in_channels, channels, stride=stride)
        self.conv1 = make_conv(config, in_channels, channels, kernel=3, stride=stride, bias=False)
        self.conv2 = make_conv(config, channels, channels, kernel=3, bias=False)
        self.shift1, self.shift2, self.shift3, self.shift4 = Shift(), Shift(), Shift(), Shift()
        self.scale = Scale(1.0)

    @classmethod
    def initialise_network(cls, blocks: list[Block], head: nn.Linear) -> None:
        """Apply rules 1 and 2 of section 3 to weights that He's initialisation has drawn."""
        nn.init.zeros_(head.weight)
        for block in blocks:
            assert isinstance(block, FixupBlock)
            with torch.no_grad():
                block.conv1.weight.mul_(len(blocks) ** -0.5)
            nn.init.zeros_(block.conv2.weight)

    @property
    def residual_end(self) -> nn.Module:
        """The last shift: its output is F(x)."""
        return self.shift4

    def residual(self, x: Tensor) -> Tensor:
        """Compute F(x)."""
        inner = relu(self.bn1(self.shift2(self.conv1(self.shift1(x)))))  # bn1 and bn2 are identities, for hooks
        return self.shift4(self.scale(self.bn2(self.conv2(self.shift3(inner)))))

    def forward(self, x: Tensor) -> Tensor:
        """Add the shortcut to F."""
        assert self.downsample is not None
        projects = isinstance(self.downsample, nn.Sequential)
        return relu(self.residual(x) + self.downsample(self.shift1(x) if projects else x))
