"""BN after the addition: the last BN of a block normalises the sum, so it stands on the shortcut path.

Paper: He et al. (2016), "Identity Mappings in Deep Residual Networks", Figure 4 (b) and Table 2.
"""

from torch import Tensor, nn

from resnetlab.config import ModelConfig
from resnetlab.models.blocks import BasicBlock, make_norm, relu


class BnAfterAdditionBlock(BasicBlock):
    """y = ReLU(BN(F(x) + shortcut(x))), with F = W2 ReLU(BN(W1 x)); a plain block is y = ReLU(BN(F(x))).

    It has the parameters of the basic block: `bn_sum` takes the place of `bn2`.
    """

    normalises_sum = True

    def __init__(self, config: ModelConfig, in_channels: int, channels: int, *, stride: int) -> None:
        """Build the layers."""
        super().__init__(config, in_channels, channels, stride=stride)
        self.bn2 = nn.Identity()
        self.bn_sum = make_norm(config, channels)

    @property
    def norm_after_addition(self) -> nn.Module:
        """The normalisation of the sum."""
        return self.bn_sum

    def forward(self, x: Tensor) -> Tensor:
        """Add the shortcut to F, normalise, rectify."""
        branch = self.residual(x)
        return relu(self.bn_sum(branch if self.downsample is None else branch + self.downsample(x)))
