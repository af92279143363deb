"""One training step: forward and backward passes, the weight update, and what to do about a loss that is not finite."""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from resnetlab.config import Recipe
from resnetlab.models.resnet import ResNet
from resnetlab.training.execution.execution import Forward
from resnetlab.training.grad_sync import BatchStats, GradSync
from resnetlab.training.optimizers.lr_schedule import lower_lr
from resnetlab.training.optimizers.max_update import step_with_max_update

MIN_SUSPECT_LR = 1e-4
"""Learning rate of a recipe below which a lower one is no remedy for a loss that is not finite."""

MAX_NON_FINITE_STEPS = 10
"""Consecutive steps without a finite loss that end a run."""


class DivergedError(RuntimeError):
    """The loss was not finite in 10 consecutive steps; the message names steps, learning rate and what to try."""

    def __init__(self, message: str, batch: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.batch = batch or {}
        """The samples of the last batch, as the record stores them."""


class BufferSnapshot:
    """A copy of a network's buffers (the running statistics of batch normalisation), to undo a step."""

    def __init__(self, model: ResNet) -> None:
        self._buffers = list(model.buffers())
        self._copies = [buffer.clone() for buffer in self._buffers]

    def save(self) -> None:
        """Copy the buffers of the network."""
        _copy_all(self._buffers, self._copies)

    def restore(self) -> None:
        """Write the copies back into the network."""
        _copy_all(self._copies, self._buffers)


def _copy_all(source: list[Tensor], target: list[Tensor]) -> None:
    if source:  # a network without batch normalisation has no buffers
        torch._foreach_copy_(target, source)  # pyright: ignore[reportPrivateImportUsage]  # one call for all


def forward_backward(
    forward: Forward,
    batches: Iterator[tuple[Tensor, Tensor]],
    batch_size: int,
    *,
    grad_sync: GradSync,
    before: Callable[[int], None] = lambda micro_batch: None,
) -> tuple[BatchStats, float]:
    """Run this process's micro-batches of one step forward and backward.

    Afterwards the gradients are those of the mean loss over `batch_size` images of all processes. `before` is called
    with the number of each micro-batch, from 0, before its forward pass.

    Returns:
        Loss and error counts of this process, and the seconds it waited for images.
    """
    stats, wait_s = BatchStats(), 0.0
    for index in range(grad_sync.micro_batches):
        start_s = time.perf_counter()
        images, labels = next(batches)
        wait_s += time.perf_counter() - start_s
        before(index)
        with grad_sync.delay_all_reduce(index):
            loss, num_wrong = forward(images, labels)
            value = loss.item()
            if grad_sync.is_shared:  # also if the loss is not finite: the other processes wait for these gradients
                (loss * (grad_sync.size * len(labels) / batch_size)).backward()  # DDP averages over processes
            elif math.isfinite(value):
                loss.backward()
        stats.add(value, int(num_wrong), len(labels))
    return stats, wait_s


def update_weights(
    optimizer: torch.optim.Optimizer, lr: float, *, recipe: Recipe | None = None, grad_scale: float = 1.0
) -> None:
    """Take an optimizer step at learning rate `lr`, after multiplying the gradients by `grad_scale`.

    A parameter group with an `lr_scale` takes `lr * lr_scale`. A recipe limits the norm of the gradients
    (`clip_grad_norm`) and the step of each layer (`max_update`).
    """
    max_update = recipe.max_update if recipe else None
    clip_norm = recipe.clip_grad_norm if recipe else None
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
        if grad_scale != 1:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.mul_(grad_scale)
    if clip_norm is not None:
        torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip_norm)
    if max_update is None:
        optimizer.step()
    else:
        step_with_max_update(optimizer, max_update)


def diverged_message(loss: float, *, steps: range, total_steps: int, lr: float, recipe_lr: float, batch: int) -> str:
    """Return the message of `DivergedError`: the steps without a finite loss, and what to try.

    Args:
        loss: The last loss.
        steps: The steps without a finite loss, counted from 1.
        total_steps: Steps of the run.
        lr: Learning rate of the last step.
        recipe_lr: Learning rate of the recipe, to which the advice refers; `lr` is lower in a warm-up or at the end.
        batch: Number of the last batch in its epoch.
    """
    where = f"steps {steps.start} to {steps[-1]}" if len(steps) > 1 else f"step {steps.start}"
    remedy = f"try a lower learning rate (lr {lower_lr(recipe_lr):g}), warmup_steps, or normalisation"
    if recipe_lr <= MIN_SUSPECT_LR:
        remedy = "that rate is low already: look at the images of this batch and the initial weights, or use fp32"
    return (
        f"the loss is {loss} at {where} of {total_steps}, learning rate {lr:g}; {remedy}; "
        f"the last batch is number {batch} of its epoch"
    )
