"""ReZero and SkipInit: a learnt factor on the residual function, 0 at first, so that each block starts as its shortcut.

Paper: Bachlechner et al. (2020), "ReZero is All You Need", equation 2; De and Smith (2020), "Batch Normalization Biases
Residual Blocks Towards the Identity Function in Deep Networks", section 4.
"""

from torch import Tensor, nn

from resnetlab.config import ModelConfig
from resnetlab.models.blocks import BasicBlock
from resnetlab.models.variants.scalars import Scale


class ReZeroBlock(BasicBlock):
    """y = ReLU(a F(x) + shortcut(x)) with a learnt number a, 0 at first."""

    needs_shortcut = True

    def __init__(self, config: ModelConfig, in_channels: int, channels: int, *, stride: int) -> None:
        """Build the layers."""
        super().__init__(config, in_channels, channels, stride=stride)
        self.scale = Scale(0.0)

    @property
    def residual_end(self) -> nn.Module:
        """The factor: its output is added to the shortcut."""
        return self.scale

    def zero_residual(self) -> None:
        """Set the factor to 0; the layers of F stay, since the factor could not learn if F were 0 too."""
        nn.init.zeros_(self.scale.value)

    def residual(self, x: Tensor) -> Tensor:
        """Compute a F(x)."""
        return self.scale(super().residual(x))


class SkipInitBlock(ReZeroBlock):
    """The same without batch normalisation: the factor takes its place (SkipInit).

    Differs: the ReLU follows the addition, as in the other blocks here; De and Smith have it in front.
    """

    required_norm = "none"
