"""Everything that a training loop works with: built from a configuration, saved to a checkpoint and restored."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from resnetlab.config import ConfigError, RunConfig
from resnetlab.data.rng import make_generator
from resnetlab.models.cost import cost_of_config
from resnetlab.models.pretrained.convert import weights_title
from resnetlab.models.resnet import ResNet
from resnetlab.models.zoo import build_model, size_warning
from resnetlab.serialization import to_json
from resnetlab.training.arguments import check_arguments
from resnetlab.training.block_noise import BlockNoise
from resnetlab.training.callbacks import Callback
from resnetlab.training.describe_run import describe_run
from resnetlab.training.distributed import broadcast_bn_statistics, wrap_ddp
from resnetlab.training.early_stopping import is_stopped_early
from resnetlab.training.execution.execution import Forward, make_forward
from resnetlab.training.execution.resolve_execution import resolve_execution, without_graph
from resnetlab.training.grad_sync import GradSync
from resnetlab.training.init_weights import init_from_file
from resnetlab.training.layer_stats import LayerStats, LayerStatsHook, sampling_interval
from resnetlab.training.length_warnings import length_warnings
from resnetlab.training.loss import make_loss
from resnetlab.training.metrics import ProgressMeter
from resnetlab.training.optimizers.lr_schedule import lr_at, num_lr_drops
from resnetlab.training.optimizers.optimizer import frozen_parameters, make_optimizer, set_mode
from resnetlab.training.optimizers.weight_average import WeightAverage
from resnetlab.training.own_network import OwnLayerStats, OwnNetwork, resolve_own
from resnetlab.training.reports import bn_batch_warning
from resnetlab.training.run_data import RunData, open_run_data
from resnetlab.training.run_files.checkpoint import Checkpoint
from resnetlab.training.run_files.checkpoint_manager import CheckpointManager
from resnetlab.training.run_files.train_state import (
    BestWeights,
    TrainState,
    load_optimizer_state,
    optimizer_numbers,
    optimizer_tensors,
)
from resnetlab.training.run_time import refuse_long_run
from resnetlab.training.runtime_options import RuntimeOptions
from resnetlab.training.signal_handling import InterruptedRunError, StopSignal
from resnetlab.training.train_step import BufferSnapshot
from resnetlab.training.unread_steps import StateSnapshot


class TrainerComponents:
    """The parts of a `Trainer`, which documents the arguments: data, network, optimizer, state, callbacks."""

    is_trained = False
    """Whether the last checkpoint was saved; the selected weights, of an earlier epoch, may be loaded then."""

    def __init__(
        self,
        config: RunConfig,
        callbacks: Sequence[Callback] = (),
        *,
        options: RuntimeOptions | None = None,
        checkpoint: Checkpoint | None = None,
        stop_signal: StopSignal | None = None,
        model: nn.Module | None = None,
    ) -> None:
        self._start_s = time.perf_counter()
        check_arguments(config, callbacks, options)
        config, model = resolve_own(config, model)
        self.callbacks, self.options = list(callbacks), options or RuntimeOptions()
        self.process_group, self.stop_signal = self.options.process_group, stop_signal or StopSignal()
        self.data = open_run_data(config, self.options, checkpoint)
        self.config = self.data.config
        self.total_steps, self.steps_per_epoch = self.data.total_steps, self.data.steps_per_epoch
        self.model, self.start = _build_network(self.config, self.data, checkpoint, model)
        self.frozen = frozen_parameters(self.model)  # of a module that came with them: they never learn
        self.macs = _count_macs(self.model, self.data.preprocessing.image_size)
        self.model.activation_checkpointing = self.config.activation_checkpointing
        self.execution, self.forward = resolve_execution(
            self.config, self.model, self.data, macs=self.macs, checkpoint=checkpoint
        )
        self.optimizer = make_optimizer(self.model, self.config)
        decay = self.config.recipe.ema_decay
        self.average = WeightAverage(self.model, decay) if decay else None
        self.grad_sync = GradSync(self.process_group, self.config.grad_accum_steps, stop_signal=self.stop_signal)
        self.block_noise = BlockNoise(self.model, self.config, self.process_group, self.data.device)
        self.layer_stats = LayerStatsHook(
            model=self.model,
            forward=self._make_forward(self.model, uncompiled=True),
            every=sampling_interval(self.config.layer_stats_steps, self.total_steps),
            total_steps=self.total_steps,
            make_stats=OwnLayerStats if isinstance(self.model, OwnNetwork) else LayerStats,
        )
        self.state = TrainState(at_initial_lr=self.config.recipe.initial_lr is not None)
        self.best = BestWeights(with_weights=self.config.recipe.keep == "best")
        self.checkpoints = CheckpointManager(None, lambda: Checkpoint(**self.state_dict()), self.warn)
        self.warnings = _start_warnings(self.config, self.data, self.start)
        self._learning: list[bool] = []
        self._ready_epoch, self.snapshot = -1, StateSnapshot()
        self.val_time_s: float | None = None
        """Seconds of the last validation."""
        self.is_resumed = checkpoint is not None
        if checkpoint:
            self.load_state_dict({"state": checkpoint.state, "tensors": checkpoint.tensors})
            changed = bn_batch_warning(self, checkpoint.state), without_graph(self.config, self.execution)
            self.warnings = list(filter(None, changed))
        refuse_long_run(self)

    @property
    def time_s(self) -> float:
        """Seconds of the whole run until now, over all sessions."""
        return time.perf_counter() - self._start_s

    @property
    def is_stopped_early(self) -> bool:
        """Whether the run ends before its full length, because the validation error fell no more."""
        return is_stopped_early(self.state.val_errors, self.config.recipe.early_stop_epochs)

    @property
    def eval_model(self) -> ResNet:
        """The network that is evaluated and saved: the average of the weights if the recipe asks for one."""
        return self.average.model if self.average else self.model

    def state_dict(self) -> dict[str, Any]:
        """Return `state` (JSON values) and `tensors` (weights, their average, optimizer, best weights) for resuming.

        The tensors are those of the run, not copies.
        """
        self.state.time_s = self.time_s
        tensors = {f"model.{key}": value for key, value in self.model.state_dict().items()}
        tensors |= {f"optimizer.{key}": value for key, value in optimizer_tensors(self.model, self.optimizer).items()}
        if self.average:
            tensors |= {f"average.{key}": value for key, value in self.average.state_dict().items()}
        tensors |= {f"best.{key}": value for key, value in self.best.weights.items()}
        numbers = optimizer_numbers(self.model, self.optimizer)
        best = {"epoch": self.best.epoch, "error_pct": self.best.error_pct if self.best.epoch else None}
        from_file = self.config.weights is not None
        state = {
            "epoch_steps": self.steps_per_epoch,
            "fingerprint": self.data.dataset.fingerprint,
            "execution": self.execution.as_json(),
            "processes": self.grad_sync.size,
            "micro_batches": self.grad_sync.micro_batches,
            **({"preprocessing": to_json(self.data.preprocessing)} if from_file else {}),
            **({"optimizer": numbers} if numbers else {}),
            "run": dataclasses.asdict(self.state),
            "best": best,
        }
        return {"state": state, "tensors": tensors}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; with another number of steps an epoch, the current epoch starts again.

        A last epoch that the length of the run cut short counts as done where further epochs follow now.

        Raises:
            ConfigError: if the tensors do not fit the network.
        """
        saved = state_dict["state"]
        by_kind: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}, "best": {}}
        for name, tensor in state_dict["tensors"].items():
            kind, _, key = name.partition(".")
            by_kind[kind][key] = tensor
        try:
            self.model.load_state_dict(by_kind["model"])
            if self.average:
                self.average.load_state_dict(by_kind["average"])
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"the checkpoint is of another network ({reason}); start over (--fresh)") from error
        load_optimizer_state(self.model, self.optimizer, by_kind["optimizer"], saved.get("optimizer", {}))
        best = saved["best"]
        self.best.epoch, self.best.weights = best["epoch"], by_kind["best"]
        self.best.error_pct = float("inf") if best["error_pct"] is None else best["error_pct"]
        if self.best.with_weights and not self.best.weights:  # the run kept the last epoch until now
            self.best = BestWeights(with_weights=True)
        self.state = TrainState.from_json(saved["run"])
        done = self.state.epochs_done
        was_cut = self.state.step < done * self.steps_per_epoch and done < self.data.num_epochs
        if saved["epoch_steps"] != self.steps_per_epoch or was_cut:
            self.state = self.state.restart_epoch(self.steps_per_epoch)
        self._start_s = time.perf_counter() - self.state.time_s

    def describe(self) -> list[str]:
        """Return the resolved configuration as lines of text: network, data, recipe, and how steps are computed."""
        return describe_run(self)

    def call(self, event: str, *arguments: Any) -> None:
        """Call a method of every callback, such as `on_step`."""
        for callback in self.callbacks:
            getattr(callback, event)(self, *arguments)

    def warn(self, message: str) -> None:
        """Report a warning to every callback; the record is one of them."""
        self.call("on_warning", message)

    def skip_images(self, images: Sequence[str]) -> None:
        """Warn about skipped images, each as `NAME: REASON`; about each image once in the whole run."""
        for image in images:
            if image not in self.state.skipped_images:
                self.state.skipped_images.append(image)
                self.warn(f"left out: {image}")

    def gather_skipped_images(self) -> None:
        """Warn about the images that the other processes skipped."""
        for images in self.process_group.all_gather(self.state.skipped_images):
            self.skip_images(images)

    def epoch_steps(self) -> range:
        """Return the steps of the current epoch, numbered through the run."""
        first = self.state.epochs_done * self.steps_per_epoch
        return range(first, min(first + self.steps_per_epoch, self.total_steps))

    def lr(self, ahead: int = 0) -> float:
        """Return the learning rate of the next step, or of one that follows it `ahead` steps later."""
        recipe, state = self.config.recipe, self.state
        dropped = num_lr_drops(state.val_errors, recipe.patience) if recipe.schedule == "plateau" else 0
        return lr_at(state.step + ahead, self.total_steps, recipe, at_initial_lr=state.at_initial_lr, num_drops=dropped)

    def share_bn_statistics(self) -> None:
        """Give every process the batch-normalisation statistics of the first one."""
        broadcast_bn_statistics(self.model, self.process_group)
        if self.average:
            broadcast_bn_statistics(self.average.model, self.process_group)

    def begin_epoch(self) -> None:
        """Put network and gradient averaging into the mode of the current epoch, unless they are in it already."""
        if self._ready_epoch == self.state.epochs_done:
            return
        self._ready_epoch = self.state.epochs_done
        set_mode(self.model, self.config.recipe, self.state.epochs_done, frozen=self.frozen)
        self._average_gradients()
        self.meter = ProgressMeter(self.epoch_steps())
        self.buffers = BufferSnapshot(self.model)

    @contextmanager
    def saving_when_interrupted(self) -> Iterator[None]:
        """Save a checkpoint if the body raises `InterruptedRunError` before the last one was saved.

        Raises:
            UnsavedError: if that checkpoint could not be written.
        """
        try:
            yield
        except InterruptedRunError:
            self.gather_skipped_images()
            if self.state.num_skipped_in_row == 0 and not self.is_trained:
                self.checkpoints.save()
            self.process_group.all_gather(None)  # torchrun ends the others when one leaves; the first is still writing
            self.checkpoints.raise_if_unsaved("stopped, the last good one stays")
            raise

    def _average_gradients(self) -> None:
        """Wrap the network so that processes average gradients; again when other parameters learn than before."""
        learning = [parameter.requires_grad for parameter in self.model.parameters()]
        if self.process_group.size == 1 or learning == self._learning:
            return
        network = wrap_ddp(self.model, self.process_group, self.data.preprocessing.image_size)
        self.grad_sync.network, self._learning = network, learning
        self.forward = self._make_forward(network)
        self.layer_stats = dataclasses.replace(self.layer_stats, forward=self._make_forward(network, uncompiled=True))

    def _make_forward(self, network: Any, *, uncompiled: bool = False) -> Forward:
        eager = dataclasses.replace(self.execution, compile=False, cuda_graph=False)
        if uncompiled and self.execution == eager and network is self.model:
            return self.forward
        loss = make_loss(self.config.recipe, self.data.class_weights)
        return make_forward(network, eager if uncompiled else self.execution, loss)


def _count_macs(model: ResNet, image_size: int) -> int:
    return model.macs if isinstance(model, OwnNetwork) else cost_of_config(model.config, image_size).macs


def _build_network(
    config: RunConfig, data: RunData, checkpoint: Checkpoint | None, own: nn.Module | None
) -> tuple[ResNet, dict[str, Any]]:
    """Return the network, with random weights or those of a file, and what the record stores of that file."""
    if own is not None:
        return OwnNetwork(own, config.model, data.preprocessing.image_size).to(data.device), {}
    model = build_model(config.model, generator=make_generator(config.seed, "weights"))
    start: dict[str, Any] = {}
    if config.weights is not None and checkpoint is None:
        start = init_from_file(config, model, data)
    return model.to(data.device), start


def _start_warnings(config: RunConfig, data: RunData, start: dict[str, Any]) -> list[str]:
    """Return what is known before the first step: network, image size, start, length, data, and skipped images."""
    warning = None if config.own_model else size_warning(config.model, data.preprocessing.image_size)
    skipped = [f"left out: {bad}" for bad in data.dataset.skipped]
    contradicted = [f"{weights_title(start['file'])}: {start['contradiction']}"] if "contradiction" in start else []
    length = length_warnings(config.recipe, data.total_steps, data.num_epochs)
    return [*([warning] if warning else []), *contradicted, *length, *data.dataset.training_warnings, *skipped]
