"""Train one network: the loop over epochs and steps, with evaluation, checkpoints and callbacks.

Paper: section 3.4 (SGD with momentum and weight decay), section 4.2 (CIFAR).
"""

import contextlib
import math
import time
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, cast

from torch import Tensor

from resnetlab.evaluation.protocols import SplitScore
from resnetlab.models.resnet import ResNet
from resnetlab.training import reports
from resnetlab.training.execution.execution import in_own_precision
from resnetlab.training.metrics import StepMetrics
from resnetlab.training.optimizers.optimizer import unfreeze
from resnetlab.training.own_network import OwnNetwork
from resnetlab.training.reports import TrainResult
from resnetlab.training.run_files.train_state import optimizer_numbers
from resnetlab.training.train_step import MAX_NON_FINITE_STEPS, forward_backward, update_weights
from resnetlab.training.trainer_setup import TrainerComponents
from resnetlab.training.unread_steps import num_unread_steps, take_unread_steps


class Trainer(TrainerComponents):
    """Trains one network in memory; `resnetlab.fit` adds a run directory with a record and checkpoints.

    Args:
        config: Network, data, recipe and seed. The data decide the network's channels and classes.
        callbacks: Called at the start, after each step, after each epoch and at the end.
        options: Processes, workers, cache: nothing that affects the result.
        checkpoint: State to continue from: `Checkpoint(**trainer.state_dict())` of the same run.
        stop_signal: Asks the run to stop; the run then saves and raises `InterruptedRunError`.
        model: A module of one's own in place of the configured network, as in `fit`.

    Raises:
        ConfigError: if data or machine do not allow the configuration, or the checkpoint does not fit.
    """

    last_step = math.nan, math.nan
    """Loss and learning rate of the last step of this process."""
    _is_optimizer_checked = False

    def fit(self) -> TrainResult:
        """Train the remaining epochs, evaluate every split, and return the selected network.

        Raises:
            DivergedError: if the loss is not finite in 10 consecutive steps, or in every step of a shorter end of the
                run and of the validation.
            InterruptedRunError: after a stop signal; the checkpoint is saved.
            UnsavedError: if the checkpoint of a stopped run could not be written.
        """
        with self.saving_when_interrupted():
            with self.stop_signal.deferred():  # from here on the record has a line, so a stopped run has a checkpoint
                self.begin()
                while self.has_epochs_left:
                    self.train_epoch()
                    self.finish_epoch()
                self.checkpoints.save()
                self.is_trained = True
            with self.stop_signal.immediate():
                result = self.finish()
        self.call("on_end", result.result)
        return result

    @property
    def has_epochs_left(self) -> bool:
        """Whether another epoch is to be trained."""
        return self.state.epochs_done < self.data.num_epochs and not self.is_stopped_early

    def begin(self) -> None:
        """Call callbacks at the start, and pass on warnings of the set-up."""
        self.call("on_start")
        self.data.report_bad_images(lambda bad: self.skip_images([bad]))
        for message in self.warnings:
            self.warn(message)

    def train_epoch(self) -> None:
        """Take the remaining steps of the current epoch."""
        state, steps = self.state, self.epoch_steps()
        self.begin_epoch()
        one_by_one = range(0)  # steps that are taken again, because one of their losses was not finite
        while state.step < steps.stop:
            batches = self.data.batches(
                state.epochs_done, state.step - steps.start, memory_format=self.execution.memory_format
            )
            with contextlib.closing(batches):
                while state.step < steps.stop:
                    num_steps = 1 if state.step in one_by_one else num_unread_steps(self)
                    taken = take_unread_steps(self, batches, num_steps) if num_steps > 1 else [self.train_step(batches)]
                    if taken is None:
                        one_by_one = range(state.step, state.step + num_steps)
                        break  # their batches come from a new iterator
                    self._log_steps(taken)

    def _log_steps(self, taken: Iterable[StepMetrics]) -> None:
        """Call callbacks with the steps that were just taken; then stop, save or give up if it is time to."""
        for metrics in taken:
            self.call("on_step", metrics)
            self.last_step = metrics.loss, metrics.lr
        self.stop_signal.check()
        state = self.state
        if self.checkpoints.folder is not None and not self._is_optimizer_checked:
            self._is_optimizer_checked = True
            optimizer_numbers(self.model, self.optimizer)  # raises now what the first save would raise
        if state.num_skipped_in_row == 0:  # weights that give no finite loss are not worth a checkpoint
            self.checkpoints.after_step(state.step)
        if state.num_skipped_in_row == MAX_NON_FINITE_STEPS or state.num_skipped == self.total_steps:
            raise reports.diverged_error(self, *self.last_step)

    @in_own_precision
    def train_step(self, batches: Iterator[tuple[Tensor, Tensor]]) -> StepMetrics:
        """Take one step on the next batch: (batch, channels, height, width) float images, and int64 labels (batch,).

        A step whose loss is not finite leaves the network unchanged and is counted in `state.num_skipped`.
        """
        self.begin_epoch()
        start_s, state, recipe, lr = time.perf_counter(), self.state, self.config.recipe, self.lr()
        self.buffers.save()
        self.optimizer.zero_grad()
        head_only = state.epochs_done < recipe.frozen_epochs  # the convolutions have no gradients then
        with contextlib.nullcontext() if head_only else self.layer_stats.record(state.step) as stats:
            forward = self.layer_stats.forward if stats else self.forward
            local, wait_s = forward_backward(
                forward,
                batches,
                recipe.batch_size,
                grad_sync=self.grad_sync,
                before=partial(self.block_noise.set, state.step),
            )
        batch = self.grad_sync.reduce(local)
        line = stats.to_record(step=state.step + 1, lr=lr, loss=batch.loss) if stats else None
        if math.isfinite(batch.loss):
            self.update(lr, grad_scale=recipe.batch_size / batch.num_images if self.grad_sync.is_shared else 1.0)
        else:
            self.buffers.restore()
        state.data_wait_s += wait_s
        state.train_time_s += time.perf_counter() - start_s
        return self.count_step(batch.loss, batch.num_wrong, batch.num_images, lr=lr, line=line)

    def update(self, lr: float, *, grad_scale: float = 1.0) -> None:
        """Change the weights by their gradients, and their average if the recipe asks for one."""
        update_weights(self.optimizer, lr, recipe=self.config.recipe, grad_scale=grad_scale)
        if self.average:
            self.average.update(self.model)

    def count_step(
        self, loss: float, num_wrong: int, num_images: int, *, lr: float, line: dict[str, Any] | None = None
    ) -> StepMetrics:
        """Count a step that was taken or skipped, and return its numbers; `line` are its layer statistics."""
        state = self.state
        if math.isfinite(loss):
            state.window.add(loss, num_wrong, num_images)
            state.num_skipped_in_row = 0
        else:
            state.num_skipped, state.num_skipped_in_row = state.num_skipped + 1, state.num_skipped_in_row + 1
        state.step += 1
        speed = self.meter.images_per_s(state.step, num_images)
        return StepMetrics(
            step=state.step,
            epoch=state.epochs_done + 1,
            loss=loss,
            num_wrong=num_wrong,
            num_images=num_images,
            lr=lr,
            layer_stats=line,
            progress=None if speed is None else reports.close_window(self, lr, speed),
        )

    def evaluate(self, split: str = "val") -> SplitScore:
        """Evaluate the current weights, or their average, on `train`, `val` or `test`.

        The network is in evaluation mode, and sees every image once.
        """
        return self.data.score(self.eval_model, split)

    def finish_epoch(self) -> dict[str, Any]:
        """Validate, compare with the best epoch, and return the record's `epoch` line.

        A stop signal during the validation leaves the state as it was before.

        Raises:
            DivergedError: if the run ends with steps whose loss was not finite, and that of the validation is not.
        """
        self.share_bn_statistics()
        decoded_per_s = self.data.decoded_images_per_s()  # before the validation images are decoded
        start_s = time.perf_counter()
        with self.stop_signal.immediate():
            val = self.evaluate("val")
        self.val_time_s = time.perf_counter() - start_s
        if self.state.num_skipped_in_row and self.state.step == self.total_steps and not math.isfinite(val.loss):
            raise reports.diverged_error(self, *self.last_step)
        self.state.epochs_done += 1
        self.state.val_errors.append(val.selection_pct)
        self.best.update(self.state.epochs_done, val.selection_pct, self.eval_model)
        line = reports.epoch_line(self, val, decoded_per_s)
        self.state.start_epoch()
        self.gather_skipped_images()
        self.call("on_epoch", line)
        return line

    def finish(self) -> TrainResult:
        """Evaluate the selected weights on every split; the test split is evaluated here alone."""
        epoch = self.state.epochs_done
        if self.config.recipe.keep == "best" and self.best.weights:  # none if no epoch was trained since it was set
            epoch = self.best.epoch
            self.eval_model.load_state_dict(self.best.weights)
        for network in (self.model, self.eval_model):
            unfreeze(network, self.frozen)
        self.call("on_last_evaluation", epoch, reports.evaluation_time_s(self))
        scores = {name: self.evaluate(name) if len(split) else None for name, split in self.data.splits.items()}
        self.gather_skipped_images()
        result, card = reports.result_line(self, scores), reports.model_card(self, reports.split_errors(scores))
        model = self.eval_model.cpu().eval()
        return TrainResult(cast("ResNet", model.module) if isinstance(model, OwnNetwork) else model, card, result)
