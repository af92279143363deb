"""One pass over the training batches: the step itself, and what it tells on the way."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from resnetlab.config import Recipe
from resnetlab.models.resnet import ResNet
from resnetlab.training.schedule import lr_at

POINTS = 13
"""How often in an epoch the training says how it goes, and looks whether the loss is still finite."""


class DivergedError(RuntimeError):
    """The loss was not finite; the message names step, learning rate and what to try."""


@dataclass(frozen=True)
class Progress:
    """How the last few steps went."""

    step: int
    """Steps taken so far in the run."""
    total_steps: int
    num_steps: int
    """Steps this word is about."""
    loss: float
    """Mean over those steps, in nats."""
    train_error_pct: float
    """Mean over those steps: augmented images, training mode, before each step's update."""
    lr: float


def train_epoch(
    model: ResNet,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[tuple[Tensor, Tensor]],
    recipe: Recipe,
    steps: range,
    total_steps: int,
) -> Iterator[Progress]:
    """Train on one epoch's batches, the steps `steps` of `total_steps`; say now and then how they went.

    Losses stay on the device until then, so that a GPU need not wait at every step.

    Raises:
        DivergedError: naming the first step whose loss was not finite.
    """
    model.train()
    pause = max(1, len(steps) // POINTS)
    losses: list[Tensor] = []
    wrong: list[Tensor] = []
    for step, (images, labels) in zip(steps, batches, strict=True):
        lr = lr_at(step, total_steps, recipe)
        for group in optimizer.param_groups:
            group["lr"] = lr

        logits = model(images)
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

        losses.append(loss.detach())
        wrong.append((logits.detach().argmax(1) != labels).float().mean())
        if len(losses) == pause or step == steps[-1]:
            values = torch.stack(losses).tolist()
            stop_unless_finite(values, step + 1 - len(values), recipe, total_steps)
            error_pct = 100 * torch.stack(wrong).mean().item()
            yield Progress(step + 1, total_steps, len(values), sum(values) / len(values), error_pct, lr)
            losses, wrong = [], []


def stop_unless_finite(losses: Sequence[float], first_step: int, recipe: Recipe, total_steps: int) -> None:
    """Raise `DivergedError` for the first loss that is not finite; `first_step` is the step of the first loss."""
    for step, loss in enumerate(losses, start=first_step):
        if not math.isfinite(loss):
            lr = lr_at(step, total_steps, recipe)
            raise DivergedError(
                f"the loss is {loss} at step {step + 1} of {total_steps}, learning rate {lr:g}; "
                f"try a lower learning rate (lr {lr / 10:g}), warmup_steps, or normalisation"
            )


def summary(points: Sequence[Progress]) -> dict[str, Any]:
    """Return what the record keeps of an epoch: its means, and the curve they are the means of."""
    weights = [point.num_steps for point in points]

    def mean(values: list[float]) -> float:
        return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)

    loss, error = [p.loss for p in points], [p.train_error_pct for p in points]
    return {
        "step": points[-1].step,
        "lr": points[-1].lr,
        "train_loss": mean(loss),
        "train_error_pct": mean(error),
        "curve": {"step": [p.step for p in points], "loss": loss, "train_error_pct": error},
    }
