"""No ReLU after the addition: the shortcut path is linear, and F still ends with BN.

Paper: Gross and Wilber (2016), "Training and investigating Residual Nets"; gcr/torch-residual-networks, "No ReLU, BN
before add".
"""

from torch import Tensor

from resnetlab.config import ModelConfig
from resnetlab.models.blocks import BasicBlock


class NoLastReluBlock(BasicBlock):
    """y = F(x) + shortcut(x), with the F of the basic block; a plain block is y = F(x)."""

    @classmethod
    def identity_obstacle(cls, config: ModelConfig) -> str | None:
        """A plain block has a ReLU between its convolutions, and reads values of either sign."""
        return "the ReLU inside it cuts its input, which may be negative" if config.shortcut == "none" else None

    def forward(self, x: Tensor) -> Tensor:
        """Add the shortcut to F, and nothing else."""
        branch = self.residual(x)
        return branch if self.downsample is None else branch + self.downsample(x)
