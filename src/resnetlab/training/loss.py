"""The loss of a training step: for one class an image, the shares of classes of mixed images, and several labels."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from resnetlab.config import Recipe

LossFunction = Callable[[Tensor, Tensor], Tensor]
"""Logits (batch, classes) and labels to the mean loss over the images, in nats.

Labels are classes, int64 (batch,); the share of each class in each mixed image, float (batch, classes); or whether an
image has each label, bool (batch, classes)."""


def balanced_class_weights(class_counts: Sequence[int]) -> Tensor:
    """Return n / (k n_c) for each class: float32, (num_classes,), 0 for a class without images.

    The mean over the n images is 1, so the learning rate keeps its meaning (`Recipe.class_weights`).
    """
    counts = torch.tensor(class_counts, dtype=torch.float64)
    weights = counts.sum() / ((counts > 0).sum() * counts)
    return torch.where(counts > 0, weights, 0.0).float()


def make_loss(recipe: Recipe, class_weights: Tensor | None = None) -> LossFunction:
    """Return the loss of a recipe: `loss`, `label_smoothing` and `bce_threshold`.

    With `class_weights`, float (num_classes,) on the device of the images and for cross-entropy only, each image's loss
    is multiplied by the weight of its class, or by the mean weight of a mixed image. The sum is divided by the number
    of images, not by that of their weights: micro-batches and processes then add up to the same loss.

    Images with several labels have the binary cross-entropy of each label, averaged over labels, or added up with
    `bce_sum`. `label_smoothing` moves each target towards one half.
    """

    def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
        if class_weights is None:
            return F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        losses = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing, reduction="none")
        return (losses * image_weights(labels, class_weights)).mean()

    def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
        targets = labels if labels.is_floating_point() else F.one_hot(labels, logits.shape[1]).to(logits.dtype)
        # As timm smooths: the share of the smoothing is spread over all classes, the image's own included.
        targets = targets * (1 - recipe.label_smoothing) + recipe.label_smoothing / logits.shape[1]
        if recipe.bce_threshold is not None:
            targets = (targets > recipe.bce_threshold).to(logits.dtype)
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return (losses.sum(1) if recipe.loss == "bce_sum" else losses).mean()

    one_class = cross_entropy if recipe.loss == "cross_entropy" else binary_cross_entropy

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        if labels.dtype != torch.bool:
            return one_class(logits, labels)
        targets = labels.to(logits.dtype) * (1 - recipe.label_smoothing) + recipe.label_smoothing / 2
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return (losses.sum(1) if recipe.loss == "bce_sum" else losses).mean()

    return loss


def image_weights(labels: Tensor, class_weights: Tensor) -> Tensor:
    """Return the weight of each image by its class, or by the shares of its classes: float (batch,)."""
    return labels @ class_weights if labels.is_floating_point() else class_weights[labels]


def num_wrong(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the number of images whose highest logit is not their class; the class of a mixed image is its largest.

    An image with several labels counts if the sign of any logit is wrong: a probability above one half for a label that
    it does not have, or the other way round.
    """
    if labels.dtype == torch.bool:
        return ((logits.detach() > 0) != labels).any(1).sum()
    classes = labels.argmax(1) if labels.is_floating_point() else labels
    return (logits.detach().argmax(1) != classes).sum()
