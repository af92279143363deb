"""Gradients that reach the first block along paths of each length through a residual network.

A network of n residual blocks has 2^n paths, because a path passes each block through F or through the shortcut. Its
length is the number of F that it passes, so binom(n, k) paths have length k.

Paper: Veit, Wilber and Belongie (2016), section 4.3 and Figure 6.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnetlab.config import ConfigError
from resnetlab.data.rng import make_generator
from resnetlab.models.block_edits import list_blocks, routed_gradients
from resnetlab.models.evaluation_mode import evaluation_mode
from resnetlab.models.resnet import ResNet
from resnetlab.system.tf32 import float32_products

MAX_BATCH = 64
"""Images in a forward and backward pass; each has a path of its own."""


@dataclass(frozen=True)
class PathGradients:
    """The paths of a network by length, and the gradient along one path of each length."""

    num_blocks: int
    """Blocks of the network, n."""
    path_share: tuple[float, ...]
    """Share of the paths of length 0 … n among all paths, in 0 to 1; they follow the binomial distribution."""
    gradient_norm: tuple[float, ...]
    """Mean Euclidean norm, over sampled paths and images, of the loss's gradient with respect to the input of the first
    block, for one path of length 0 … n."""
    gradient_share: tuple[float, ...]
    """Share of the length in the sum of norm times number of paths, in 0 to 1; NaN where no gradient is finite."""

    @property
    def mean_length(self) -> float:
        """Mean path length, weighted with `gradient_share`."""
        return sum(length * share for length, share in enumerate(self.gradient_share))

    def effective_range(self) -> tuple[int, int]:
        """Return the shortest and the longest of the lengths between which at least 95 % of the gradient lies."""
        tail, low, high = (1 - 0.95) / 2, 0, self.num_blocks
        below = above = 0.0
        while low < high and below + self.gradient_share[low] < tail:
            below += self.gradient_share[low]
            low += 1
        while high > low and above + self.gradient_share[high] < tail:
            above += self.gradient_share[high]
            high -= 1
        return low, high


def path_shares(num_blocks: int) -> tuple[float, ...]:
    """Return the share of the 2^n paths that have length 0 … n."""
    return tuple(math.comb(num_blocks, length) / 2**num_blocks for length in range(num_blocks + 1))


@float32_products(tf32=False)
def measure_path_gradients(
    model: ResNet,
    images: Tensor,
    labels: Tensor,
    *,
    per_length: int = 64,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> PathGradients:
    """Measure the gradient along random paths of each length, in evaluation mode.

    The paths are a function of the seed and the number of blocks. Differs from Veit et al.: each image takes a path of
    its own, where theirs takes one for a batch, and batch normalisation uses its running statistics.

    Args:
        model: A residual network.
        images: Normalised images (batch, channels, height, width), at least 1.
        labels: int64 (batch,).
        per_length: Paths of each length, at least 1; each is that of one image, and every length has the same images.
        seed: Selects the paths.
        on_progress: Called with the number of measured paths and their total.

    Raises:
        ConfigError: for a plain network, which has a single path, and if `per_length` is below 1.
    """
    num_blocks = len(list_blocks(model))
    if model.config.shortcut == "none":
        raise ConfigError(f"{model.config.name} is plain: its only path has all {num_blocks} blocks")
    if per_length < 1:
        raise ConfigError(f"the paths of each length must be at least 1, not {per_length}")
    lengths = torch.arange(num_blocks + 1).repeat(per_length)
    paths = random_paths(num_blocks, lengths, seed)
    # every length gets the same images: few images have most of the loss, and would decide between lengths
    rows = torch.arange(per_length).repeat_interleave(num_blocks + 1) % len(images)
    norms = []
    with evaluation_mode(model):
        for batch in torch.arange(len(lengths)).split(min(MAX_BATCH, len(images))):
            chosen = rows[batch]
            gradients = input_gradients(model, images[chosen], labels[chosen], through_branch=paths[:, batch])
            norms.append(gradients.flatten(1).double().norm(dim=1).cpu())
            if on_progress:
                on_progress(int(batch[-1]) + 1, len(lengths))
    return _by_length(torch.cat(norms).view(per_length, num_blocks + 1).mean(0).tolist())


def _by_length(mean: Sequence[float]) -> PathGradients:
    """Return the paths and their gradients, from the mean norm along one path of each length."""
    counts = path_shares(len(mean) - 1)
    total = sum(norm * count for norm, count in zip(mean, counts, strict=True))
    usable = math.isfinite(total) and total > 0
    shares = (norm * count / total if usable else math.nan for norm, count in zip(mean, counts, strict=True))
    return PathGradients(len(mean) - 1, counts, tuple(mean), tuple(shares))


def random_paths(num_blocks: int, lengths: Tensor, seed: int) -> Tensor:
    """Return a random path for each length, as bool (num_blocks, num_paths): whether it passes F of a block."""
    keys = torch.rand(len(lengths), num_blocks, generator=make_generator(seed, "paths", num_blocks))
    return (keys.argsort(1).argsort(1) < lengths[:, None]).T


@torch.enable_grad()
def input_gradients(model: ResNet, images: Tensor, labels: Tensor, *, through_branch: Tensor | None = None) -> Tensor:
    """Return the gradient of each image's loss with respect to the input of the first block.

    Args:
        model: In evaluation mode, so that no image affects another.
        images: Normalised images (batch, channels, height, width), on the model's device.
        labels: int64 (batch,).
        through_branch: bool (num_blocks, batch): the path of each image (`routed_gradients`); all paths if not given.
    """
    inputs: list[Tensor] = []

    def start_graph(_stage: nn.Module, stage_inputs: tuple[Tensor]) -> tuple[Tensor]:
        inputs.append(stage_inputs[0].detach().requires_grad_())
        return (inputs[0],)

    handle = next(iter(model.stages.values())).register_forward_pre_hook(start_graph)
    try:
        if through_branch is None:
            logits = model(images)
        else:
            with routed_gradients(model, through_branch.to(images.device)):
                logits = model(images)
    finally:
        handle.remove()
    loss = F.cross_entropy(logits, labels, reduction="sum")
    return torch.autograd.grad(loss, inputs[0])[0]
