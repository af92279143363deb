"""Stochastic depth: training leaves out each residual function with a probability that rises with the depth.

Paper: Huang et al. (2016), "Deep Networks with Stochastic Depth", equations 2, 4 and 5.
"""

from torch import Tensor

from resnetlab.config import ModelConfig
from resnetlab.models.blocks import BasicBlock, relu
from resnetlab.models.variants.step_noise import StepNoise

LAST_SURVIVAL = 0.5
"""p_L, the probability with which the last block stays (section 4: the value of all their experiments)."""


class StochasticDepthBlock(BasicBlock):
    """y = ReLU(b F(x) + shortcut(x)) in training, where b is 1 with probability p and else 0; evaluation has b = p.

    p falls linearly from the first block to p_L = 0.5 in the last: p_l = 1 - l / L (1 - p_L). All images of a batch
    have the same b.

    Differs: F is computed where b = 0 as well, so that several processes and compiled steps do the same; training is
    therefore not faster.
    """

    needs_shortcut = True

    def __init__(self, config: ModelConfig, in_channels: int, channels: int, *, stride: int) -> None:
        """Build the layers."""
        super().__init__(config, in_channels, channels, stride=stride)
        self.noise = StepNoise()
        self.survival = 1.0

    def set_position(self, index: int, num_blocks: int) -> None:
        """Set p_l of block l = index + 1."""
        self.noise.block = index
        self.survival = 1 - (index + 1) / num_blocks * (1 - LAST_SURVIVAL)

    @classmethod
    def identity_obstacle(cls, config: ModelConfig) -> str | None:
        """More blocks change the p of every other block."""
        return "evaluation scales each residual function by its probability, and more blocks change that"

    def forward(self, x: Tensor) -> Tensor:
        """Leave F out at random in training; scale it by p in evaluation."""
        assert self.downsample is not None
        branch = self.residual(x)
        if self.training:
            branch = branch * (self.noise.block_uniform(x) < self.survival).to(branch.dtype)
        else:
            branch = branch * self.survival
        return relu(branch + self.downsample(x))
