"""Compare a block of your own with the paper's, all trained by an optimizer of your own: five seeds, and a figure.

python examples/my_block.py
"""

import argparse

import torch
from torch import Tensor

import resnetlab


class WeightedBlock(resnetlab.BasicBlock):
    """A basic block whose residual function has a learnt factor, 0 at the start (Bachlechner et al., 2020)."""

    def __init__(self, config: resnetlab.ModelConfig, in_channels: int, channels: int, *, stride: int) -> None:
        """Build the layers."""
        super().__init__(config, in_channels, channels, stride=stride)
        self.factor = torch.nn.Parameter(torch.zeros(1))

    def residual(self, x: Tensor) -> Tensor:
        """Compute factor * F(x)."""
        return self.factor * super().residual(x)

    def zero_residual(self) -> None:
        """Set the factor to 0, and not the layers too: then neither could learn."""
        torch.nn.init.zeros_(self.factor)


def nadam(groups: list[dict], recipe: resnetlab.Recipe) -> torch.optim.Optimizer:
    """Return NAdam, which takes the recipe's momentum as its first beta."""
    return torch.optim.NAdam(groups, lr=recipe.lr, betas=(recipe.momentum, 0.999), weight_decay=recipe.weight_decay)


resnetlab.register_block("mine", WeightedBlock)
resnetlab.register_optimizer("nadam", nadam)


def main(words: list[str] | None = None) -> None:
    """Train plain, residual and own blocks; print the comparison and save the figure."""
    parser = argparse.ArgumentParser(description="compare a block of your own")
    parser.add_argument("--steps", type=int, default=400, help="steps of each run (default: %(default)s)")
    parser.add_argument("--depth", type=int, default=20, help="layers, 6n+2 (default: %(default)s)")
    parser.add_argument("--out", default="studies/my-block", help="folder of the study (default: %(default)s)")
    options = parser.parse_args(words)
    recipe = resnetlab.recipe("digits", optimizer="nadam", lr=0.002, steps=options.steps)
    study = resnetlab.study(["plain", "residual", "mine"], [options.depth], recipe=recipe, seeds=5, out=options.out)
    print(study.compare("plain", "mine"))
    print(study.compare("residual", "mine"))
    study.plot().savefig(f"{options.out}/my-block.png", dpi=120)
    print(f"figure: {options.out}/my-block.png; report: {options.out}/report.html")


if __name__ == "__main__":
    main()
