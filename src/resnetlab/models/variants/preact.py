"""Pre-activation: BN and ReLU stand before each convolution, and nothing but the addition is on the shortcut path.

Paper: He et al. (2016), "Identity Mappings in Deep Residual Networks", Figure 4 (e) and section 4.1.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from resnetlab.config import ModelConfig
from resnetlab.models.blocks import BasicBlock, Block, Bottleneck, make_norm, make_shortcut, relu


class PreActivation(Block):
    """y = x + F(x), with F = W2 ReLU(BN(W1 ReLU(BN(x)))); a plain block is y = F(x).

    `bn0` is the BN in front of F; F has no BN at its end. A shortcut that changes the shape is a convolution without BN
    and reads ReLU(BN(x)), as in the authors' code (KaimingHe/resnet-1k-layers, `both_preact`). The first block reads
    the stem's BN and ReLU instead of its own, and the network has one more BN and ReLU behind its last block (their
    appendix).
    """

    final_norm = True
    bn0: nn.Module
    reads_relu: bool
    """Whether the block's input is activated already: true of the first block."""

    def use_preactivation(self, config: ModelConfig, in_channels: int, *, stride: int) -> None:
        """Replace the layers of a block with BN at its end by those of one with BN in front; call it at the end."""
        end = f"bn{self.num_convs}"
        out_channels = self.conv_layers()[-1][0].out_channels
        setattr(self, end, nn.Identity())
        del self.downsample
        self.bn0 = make_norm(config, in_channels)
        self.downsample = make_shortcut(config, in_channels, out_channels, stride=stride, norm=False)
        self.reads_relu = False

    def set_position(self, index: int, num_blocks: int) -> None:
        """Leave the first block without a BN in front: the stem ends with one."""
        if index == 0:
            self.bn0, self.reads_relu = nn.Identity(), True

    @classmethod
    def identity_obstacle(cls, config: ModelConfig) -> str | None:
        """Only an identity shortcut passes an input of either sign on."""
        if config.shortcut in ("pad", "project"):
            return None
        return "it rectifies its input before every convolution, and that input may be negative"

    def preactivate(self, x: Tensor) -> Tensor:
        """Return ReLU(BN(x)); the first block's input is that already."""
        if self.reads_relu:
            return x
        return F.relu(x) if isinstance(self.bn0, nn.Identity) else relu(self.bn0(x))  # the shortcut still reads x

    def forward(self, x: Tensor) -> Tensor:
        """Add the shortcut to F (He et al., 2016, equation 6)."""
        activated = self.preactivate(x)
        branch = self.residual(activated)
        if self.downsample is None:
            return branch
        return branch + self.downsample(x if isinstance(self.downsample, nn.Identity) else activated)


class PreActBlock(PreActivation, BasicBlock):
    """Pre-activation of two 3x3 convolutions; `residual` reads the activated input."""

    def __init__(self, config: ModelConfig, in_channels: int, channels: int, *, stride: int) -> None:
        """Build the layers."""
        super().__init__(config, in_channels, channels, stride=stride)
        self.use_preactivation(config, in_channels, stride=stride)


class PreActBottleneck(PreActivation, Bottleneck):
    """Pre-activation of the bottleneck; `residual` reads the activated input."""

    def __init__(self, config: ModelConfig, in_channels: int, channels: int, *, stride: int) -> None:
        """Build the layers."""
        super().__init__(config, in_channels, channels, stride=stride)
        self.use_preactivation(config, in_channels, stride=stride)
