"""Steps whose losses are read together, so that a GPU does not wait for the host at every step.

A step whose loss is not finite must leave the network unchanged, and the loss is known late here. Therefore the state
before the steps is copied on the device. If one of the losses is not finite, the state is restored and the same steps
are taken again one by one (`Trainer.train_step`). Weights, counters and record are those of a run that reads every
loss.
"""

import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from resnetlab.training.execution.execution import in_own_precision
from resnetlab.training.metrics import StepMetrics
from resnetlab.training.run_files.train_state import load_optimizer_state, optimizer_numbers

if TYPE_CHECKING:
    from resnetlab.training.trainer import Trainer

GPU_LOSS_STEPS = 32
"""Steps between two reads of the loss on a GPU: a step there takes milliseconds, and a signal waits for the read."""


class StateSnapshot:
    """A copy of everything that a step changes on the device: weights, buffers, their average, and the optimizer."""

    def __init__(self) -> None:
        self._copies: dict[str, Tensor] = {}
        self._numbers: dict[str, float | None] = {}

    def save(self, trainer: "Trainer") -> None:
        """Copy the tensors of a trainer; the memory of the last copy is used again."""
        tensors = _changing_tensors(trainer)
        self._numbers = optimizer_numbers(trainer.model, trainer.optimizer)
        if self._copies.keys() == tensors.keys():
            _copy(tensors, self._copies)
        else:
            self._copies = {name: tensor.detach().clone() for name, tensor in tensors.items()}

    def restore(self, trainer: "Trainer") -> None:
        """Write the copies back; what the optimizer has stored since then for the first time is deleted."""
        tensors = _changing_tensors(trainer)
        _copy(self._copies, tensors)
        parameters = dict(trainer.model.named_parameters())
        now = optimizer_numbers(trainer.model, trainer.optimizer)
        added = [name.partition(".")[2] for name in tensors.keys() - self._copies.keys()]
        for full_name in [*added, *(now.keys() - self._numbers.keys())]:
            key, _, name = full_name.partition(".")
            del trainer.optimizer.state[parameters[name]][key]
        load_optimizer_state(trainer.model, trainer.optimizer, {}, self._numbers)


def num_unread_steps(trainer: "Trainer") -> int:
    """Return how many of the next steps are taken before their losses are read; 1 if each loss is read at once.

    They end at the next progress report, whose error may change the learning rate, at the next step that samples layer
    statistics, and where a checkpoint is due.
    """
    options, step = trainer.options, trainer.state.step
    on_gpu = trainer.data.device.type == "cuda"
    every = options.loss_steps or (GPU_LOSS_STEPS if on_gpu else 1)
    if every == 1 or trainer.grad_sync.is_shared or trainer.state.num_skipped_in_row:
        return 1
    stop = min(step + every, trainer.epoch_steps().stop, trainer.meter.next_report(step))
    if options.checkpoint_steps is not None:
        stop = min(stop, step + options.checkpoint_steps - step % options.checkpoint_steps)
    sampled = next((later for later in range(step, stop) if trainer.layer_stats.is_due(later)), stop)
    return max(1, sampled - step)


@in_own_precision
def take_unread_steps(
    trainer: "Trainer", batches: Iterator[tuple[Tensor, Tensor]], num_steps: int
) -> Iterator[StepMetrics] | None:
    """Take steps on the next batches, then read their losses.

    Returns:
        The numbers of each step, which the trainer counts as they are taken; `None` if a loss was not finite. Then the
        state is that before the steps, and `batches` has moved on.
    """
    start_s, wait_s = time.perf_counter(), 0.0
    trainer.snapshot.save(trainer)
    rates, sizes = [], []
    results = torch.empty(num_steps, 2, dtype=torch.float64, device=trainer.data.device)
    for index in range(num_steps):
        before_s = time.perf_counter()
        images, labels = next(batches)
        wait_s += time.perf_counter() - before_s
        trainer.optimizer.zero_grad()
        trainer.block_noise.set(trainer.state.step + index)
        loss, num_wrong = trainer.forward(images, labels)
        loss.backward()
        results[index, 0].copy_(loss.detach())  # the next replay of a graph overwrites its outputs
        results[index, 1].copy_(num_wrong)
        rates.append(trainer.lr(index))
        sizes.append(len(labels))
        trainer.update(rates[-1])
    losses = results.tolist()  # waits for the device
    if not all(math.isfinite(loss) for loss, _ in losses):
        trainer.snapshot.restore(trainer)
        return None
    trainer.state.data_wait_s += wait_s
    trainer.state.train_time_s += time.perf_counter() - start_s
    return (
        trainer.count_step(loss, int(wrong), size, lr=lr)
        for (loss, wrong), lr, size in zip(losses, rates, sizes, strict=True)
    )


def _changing_tensors(trainer: "Trainer") -> dict[str, Tensor]:
    """Return what a checkpoint stores, without the best weights: these change between epochs only."""
    return {name: tensor for name, tensor in trainer.state_dict()["tensors"].items() if not name.startswith("best.")}


@torch.no_grad()
def _copy(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    """Copy the tensors of `source` to those of the same name, with one call for each type of number."""
    by_type: dict[tuple[torch.device, torch.dtype], list[str]] = {}
    for name, tensor in source.items():
        by_type.setdefault((tensor.device, tensor.dtype), []).append(name)
    for names in by_type.values():
        torch._foreach_copy_(  # pyright: ignore[reportPrivateImportUsage]
            [target[name].detach() for name in names], [source[name] for name in names]
        )
