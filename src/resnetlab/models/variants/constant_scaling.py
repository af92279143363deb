"""Constant scaling: shortcut and residual function are both halved, so the signal on the shortcuts decays.

Paper: He et al. (2016), "Identity Mappings in Deep Residual Networks", section 3.1 and Table 1 (0.5 and 0.5).
"""

from torch import Tensor

from resnetlab.config import ModelConfig
from resnetlab.models.blocks import BasicBlock, relu

FACTOR = 0.5
"""Lambda, and 1 - lambda."""


class ConstantScalingBlock(BasicBlock):
    """y = ReLU(0.5 F(x) + 0.5 shortcut(x))."""

    needs_shortcut = True

    @classmethod
    def identity_obstacle(cls, config: ModelConfig) -> str | None:
        """The shortcut passes half of the input on."""
        return "its shortcut halves the input"

    def forward(self, x: Tensor) -> Tensor:
        """Add half of the shortcut to half of F."""
        assert self.downsample is not None
        return relu(FACTOR * self.residual(x) + FACTOR * self.downsample(x))
