"""The training step itself, and what it tells on the way."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from resnetlab.config import Recipe
from resnetlab.models.resnet import ResNet
from resnetlab.training.callbacks import Progress
from resnetlab.training.execution import Forward
from resnetlab.training.grad_sync import ALONE, BatchStats, GradSync
from resnetlab.training.layer_stats import LayerStatsHook
from resnetlab.training.lr_schedule import lr_at, num_lr_drops
from resnetlab.training.train_state import MetricWindow, TrainState

POINTS = 13
"""How often in an epoch the training says how it goes."""

PATIENCE = 10
"""So many steps in a row without a finite loss end the run."""


class DivergedError(RuntimeError):
    """The loss was not finite `PATIENCE` times in a row; the message names steps, learning rate and what to try."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.batch: dict[str, Any] = {}
        """Which samples the last batch held, as the record says it."""


@dataclass(frozen=True)
class StepResult:
    """What a step leaves to be told; mostly nothing."""

    progress: Progress | None = None
    """A word about the last few steps."""
    signal: dict[str, Any] | None = None
    """The record's `signal` line, where the step was listened to."""


def train_steps(
    model: ResNet,
    optimizer: torch.optim.Optimizer,
    forward: Forward,
    batches: Iterator[tuple[Tensor, Tensor]],
    recipe: Recipe,
    state: TrainState,
    steps: range,
    sampler: LayerStatsHook,
    together: GradSync = ALONE,
) -> Iterator[StepResult]:
    """Take the steps that an epoch (`steps`, numbered through the run) still lacks; yield after each.

    With several processes each takes its part of every batch, and all of them count, skip and stop at the same steps.
    The network is in training mode, but for what is frozen; a group of the optimizer may have an `lr_scale`. A step
    whose loss is not finite leaves the network as it was and is counted. While the head learns alone nothing is
    listened to: the convolutions have no gradients.

    Raises:
        DivergedError: after `PATIENCE` of those in a row.
    """
    frozen = state.epochs_done < recipe.frozen_epochs
    pause = max(1, len(steps) // POINTS)
    buffers = list(model.buffers())
    before = [buffer.clone() for buffer in buffers]
    told_s, images_since, total_steps = time.perf_counter(), 0, sampler.total_steps
    while state.step < steps.stop:
        start_s = time.perf_counter()
        lr = lr_now(state, total_steps, recipe)
        _copy(buffers, before)
        optimizer.zero_grad()
        with nullcontext() if frozen else sampler.listen(state.step) as heard:
            part, wait_s = _backward(sampler.forward if heard else forward, batches, recipe.batch_size, together)
        state.wait_s += wait_s
        whole = together.agree(part)
        signal = heard.signal(step=state.step + 1, lr=lr, loss=whole.loss) if heard else None
        if math.isfinite(whole.loss):
            _update(optimizer, lr, recipe.batch_size / whole.num_images if together.is_shared else 1.0)
            _count(state, whole)
        else:
            _undo(before, buffers, state)
        state.step += 1
        state.train_time_s += time.perf_counter() - start_s
        images_since += whole.num_images
        told = None
        if (state.step - steps.start) % pause == 0 or state.step == steps.stop:
            speed = images_since / (time.perf_counter() - told_s)
            told = _tell(state, steps, total_steps, lr, speed, recipe)
            told_s, images_since = time.perf_counter(), 0
        yield StepResult(told, signal)
        if state.streak == PATIENCE:
            raise diverged(whole.loss, state, steps, total_steps, lr)


def _backward(
    forward: Forward, batches: Iterator[tuple[Tensor, Tensor]], batch_size: int, together: GradSync
) -> tuple[BatchStats, float]:
    """Take this process's part of a batch forward and back; return what came of it, and seconds waited for images.

    Gradients are afterwards those of the mean loss over `batch_size` images, whoever had them.
    """
    found, wait_s = BatchStats(), 0.0
    for number in range(together.parts):
        start_s = time.perf_counter()
        images, labels = next(batches)
        wait_s += time.perf_counter() - start_s
        with together.kept_back(number):
            loss, wrong = forward(images, labels)
            value = loss.item()
            if together.is_shared:  # even if it is not finite: the others wait for this one's gradients
                (loss * (together.size * len(labels) / batch_size)).backward()  # they are averaged over processes
            elif math.isfinite(value):
                loss.backward()
        found.add(value, int(wrong), len(labels))
    return found, wait_s


def _update(optimizer: torch.optim.Optimizer, lr: float, scale: float) -> None:
    """Update the weights; gradients count `scale` times, where images of the batch were left out."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
        if scale != 1:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.mul_(scale)
    optimizer.step()


def lr_now(state: TrainState, total_steps: int, recipe: Recipe) -> float:
    """Return the learning rate of the next step."""
    num_drops = num_lr_drops(state.val_errors, recipe.patience) if recipe.schedule == "plateau" else 0
    return lr_at(state.step, total_steps, recipe, cautious=state.cautious, num_drops=num_drops)


def diverged(loss: float, state: TrainState, steps: range, total_steps: int, lr: float) -> DivergedError:
    """Return the error that says where the loss was not finite, and what to try."""
    first = state.step - state.streak + 1
    where = f"steps {first} to {state.step}" if state.streak > 1 else f"step {first}"
    return DivergedError(
        f"the loss is {loss} at {where} of {total_steps}, learning rate {lr:g}; try a lower learning rate "
        f"(lr {lr / 10:g}), warmup_steps, or normalisation; the last batch is number {state.step - steps.start} of its "
        "epoch"
    )


def summary(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the record keeps of an epoch: its means, and the curve they are the means of."""
    if not points:  # not one step had a finite loss
        return {"train_loss": None, "train_error_pct": None, "curve": {"step": [], "loss": [], "train_error_pct": []}}
    weights = [point["num_steps"] for point in points]

    def mean(values: list[float]) -> float:
        return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)

    loss, error = [p["loss"] for p in points], [p["train_error_pct"] for p in points]
    return {
        "train_loss": mean(loss),
        "train_error_pct": mean(error),
        "curve": {"step": [p["step"] for p in points], "loss": loss, "train_error_pct": error},
    }


def _copy(source: list[Tensor], target: list[Tensor]) -> None:
    """Copy BN's many small statistics in one call, as PyTorch's optimizers do with their state."""
    if source:  # a network without BN has none
        torch._foreach_copy_(target, source)  # pyright: ignore[reportPrivateImportUsage]


def _undo(before: list[Tensor], buffers: list[Tensor], state: TrainState) -> None:
    """Put BN's statistics back as they were before a step whose loss was not finite, and count it."""
    _copy(before, buffers)
    state.num_skipped += 1
    state.streak += 1


def _count(state: TrainState, whole: BatchStats) -> None:
    state.streak = 0
    state.window.num_steps += 1
    state.window.loss += whole.loss
    state.window.num_wrong += whole.num_wrong
    state.window.num_images += whole.num_images


def _tell(
    state: TrainState, steps: range, total_steps: int, lr: float, images_per_s: float, recipe: Recipe
) -> Progress | None:
    """Close the window: a word about it, and whether the learning rate need still be cautious."""
    window, state.window = state.window, MetricWindow()
    if window.num_steps == 0:
        return None
    error_pct = 100 * window.num_wrong / window.num_images
    progress = Progress(
        epoch=state.epochs_done + 1,
        step=state.step,
        total_steps=total_steps,
        num_steps=window.num_steps,
        loss=window.loss / window.num_steps,
        train_error_pct=error_pct,
        lr=lr,
        images_per_s=images_per_s,
    )
    kept = asdict(progress)
    del kept["images_per_s"]  # the one number that another session would not repeat
    state.curve.append(kept)
    if error_pct < recipe.initial_lr_until_pct:
        state.cautious = False
    return progress
