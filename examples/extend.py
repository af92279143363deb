"""Add a block, an optimizer, a schedule, an augmentation and a recipe of your own, and train with them.

python examples/extend.py
"""

import torch
from torch import Tensor, nn

import resnetlab


class ScaledBlock(resnetlab.BasicBlock):
    """A basic block with a learnt factor on its residual function, 0 at the start (Bachlechner et al., 2020)."""

    def __init__(self, config: resnetlab.ModelConfig, in_channels: int, channels: int, *, stride: int) -> None:
        """Build the layers."""
        super().__init__(config, in_channels, channels, stride=stride)
        self.scale = nn.Parameter(torch.zeros(1))

    def residual(self, x: Tensor) -> Tensor:
        """Compute scale * F(x)."""
        return self.scale * super().residual(x)

    def zero_residual(self) -> None:
        """Set the factor to 0, and not the layers too: then neither could learn."""
        nn.init.zeros_(self.scale)


def radam(groups: list[dict], recipe: resnetlab.Recipe) -> torch.optim.Optimizer:
    """Return RAdam, which takes the recipe's momentum as its first beta."""
    return torch.optim.RAdam(groups, lr=recipe.lr, betas=(recipe.momentum, 0.999), weight_decay=recipe.weight_decay)


def square_root(at: resnetlab.ScheduleInput) -> float:
    """Return a learning rate that falls with the square root of the remaining steps."""
    return at.recipe.lr * (1 - at.progress) ** 0.5


def noise(images: Tensor, params: Tensor) -> Tensor:
    """Shift the brightness of each image by up to 0.1, from random numbers (batch, 4)."""
    return images + 0.2 * (params[:, 0] - 0.5).view(-1, 1, 1, 1)


resnetlab.register_block("scaled", ScaledBlock)
resnetlab.register_optimizer("radam", radam)
resnetlab.register_schedule("square-root", square_root)
resnetlab.register_augmentation("brightness", noise)
resnetlab.register_recipe(
    resnetlab.Recipe(
        "mine",
        epochs=2,
        batch_size=64,
        lr=0.003,
        optimizer="radam",
        schedule="square-root",
        augmentations=("brightness",),
    )
)

if __name__ == "__main__":
    model = resnetlab.model_config("resnet20", block="scaled")
    result = resnetlab.fit(resnetlab.RunConfig(model, recipe=resnetlab.recipe("mine"))).result
    print(f"validation error {result['val_error_pct']:.1f} %, test error {result['test_error_pct']:.1f} %")
