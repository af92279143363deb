"""The loss of a training step, for labels and for the shares of classes that mixed images have."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from resnetlab.config import Recipe

LossFunction = Callable[[Tensor, Tensor], Tensor]
"""Logits (batch, classes) and labels to the mean loss over the images, in nats.

Labels are classes, int64 (batch,), or the share of each class in each image, float (batch, classes)."""


def make_loss(recipe: Recipe) -> LossFunction:
    """Return the loss of a recipe: `loss`, `label_smoothing` and `bce_threshold`."""

    def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)

    def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
        targets = labels if labels.is_floating_point() else F.one_hot(labels, logits.shape[1]).to(logits.dtype)
        # As timm smooths: the share of the smoothing is spread over all classes, the image's own included.
        targets = targets * (1 - recipe.label_smoothing) + recipe.label_smoothing / logits.shape[1]
        if recipe.bce_threshold is not None:
            targets = (targets > recipe.bce_threshold).to(logits.dtype)
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return (losses.sum(1) if recipe.loss == "bce_sum" else losses).mean()

    return cross_entropy if recipe.loss == "cross_entropy" else binary_cross_entropy


def num_wrong(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the number of images whose highest logit is not their class; the class of a mixed image is its largest."""
    classes = labels.argmax(1) if labels.is_floating_point() else labels
    return (logits.detach().argmax(1) != classes).sum()
