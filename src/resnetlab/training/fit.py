"""Train in a run directory: `fit` opens or resumes it, records the run, and leaves a model file."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import nn

from resnetlab.config import ConfigError, RunConfig
from resnetlab.data.shards.fetch import RemoteError
from resnetlab.models.model_card import OWN_WEIGHTS
from resnetlab.models.model_file import load_model, save_model
from resnetlab.models.resnet import ResNet
from resnetlab.system.dir_lock import lock_dir
from resnetlab.system.process_group import ProcessGroup
from resnetlab.training.arguments import check_arguments, check_needs_no_folder
from resnetlab.training.callbacks import Callback
from resnetlab.training.config_changes import CONTINUED, describe_changes
from resnetlab.training.execution.execution import kept_threads
from resnetlab.training.kept_states import STATES, KeepStates
from resnetlab.training.metrics import StepMetrics
from resnetlab.training.own_network import check_own_options, load_own_weights, resolve_own
from resnetlab.training.reports import TrainResult, run_line
from resnetlab.training.run_files.checkpoint import Checkpoint
from resnetlab.training.run_files.checkpoint_manager import CheckpointManager, UnsavedError
from resnetlab.training.run_files.record import Record
from resnetlab.training.run_files.run_dir import (
    CHECKPOINT,
    CONFIG,
    MODEL,
    RECORD,
    ResumePoint,
    open_run_dir,
    remove_paths,
    remove_unstarted,
    write_config,
)
from resnetlab.training.runtime_options import RuntimeOptions
from resnetlab.training.signal_handling import InterruptedRunError, StopSignal
from resnetlab.training.tensorboard import open_logger
from resnetlab.training.train_step import DivergedError
from resnetlab.training.trainer import Trainer
from resnetlab.training.trainer_setup import TrainerComponents


def fit(
    config: RunConfig,
    out: Path | str | None = None,
    *,
    options: RuntimeOptions | None = None,
    callbacks: Sequence[Callback] = (),
    stop_signal: StopSignal | None = None,
    model: nn.Module | None = None,
) -> TrainResult:
    """Train a network, evaluate it, and write a run directory.

    With `model`, a module of one's own is trained instead, by the same recipe, data and record, with statistics of its
    convolutions and linear layers. Its weights are in `weights.safetensors`; there is no model file, because no other
    process can build the module, so the commands that take a model file do not take this run. Random numbers that the
    module generates itself, such as dropout, do not follow from the seed.

    Args:
        config: Network, data, recipe and seed. The network's channels and classes are taken from the data.
        out: The run directory: `config.json`, `record.jsonl`, `checkpoint/`, `model.safetensors`; `None` for none.
        options: Workers, checkpoints, whether to resume: nothing that affects the result.
        callbacks: Called during the run; see `Callback`.
        stop_signal: Asks the run to stop; the run then saves and raises `InterruptedRunError`.
        model: A module that maps float images (batch, channels, height, width) to logits (batch, classes); it is
            trained in place, from its own weights. `config.model` is not used. A configuration with an `architecture`
            has its own module.

    Raises:
        ConfigError: if data or machine do not allow the configuration, or it is not the one of the run in `out`; or if
            an option writes files and there is no `out`.
        DivergedError: if the loss is not finite in 10 consecutive steps; the record says so too.
        FileExistsError: if `out` holds a run and `options.resume` is off.
        InterruptedRunError: after a stop signal; the state is saved.
        UnsavedError: if the run is done but record or checkpoint could not be written.
    """
    check_arguments(config, callbacks, options)
    config, model = resolve_own(config, model)
    options, stop_signal = options or RuntimeOptions(), stop_signal or StopSignal()
    check_own_options(model, options)
    if out is None:
        check_needs_no_folder(options)
    group = options.process_group
    stop_signal.shared = group.size > 1
    with contextlib.ExitStack() as stack:
        stack.enter_context(kept_threads())
        resume, out = ResumePoint(), None if out is None else Path(out)
        if out is not None:
            folder = out
            resume = group.run_on_first(lambda: _open(folder, config, options, stack))
            if resume.result is not None:
                return _finished(folder, resume.result, group, model)
        own = out if group.is_first else None  # the other processes write nothing
        try:
            with Record(own and own / RECORD, keep_bytes=resume.record_bytes, hold=resume.exists) as record:
                run = _Run(own, record, resume, options, callbacks, stop_signal, model)
                return run.train(config)
        except (ConfigError, InterruptedRunError, RemoteError):
            if own is not None:
                remove_unstarted(own, resume)
            raise


def _finished(folder: Path, result: dict[str, Any], group: ProcessGroup, model: nn.Module | None) -> TrainResult:
    """Return the result of a run that is done already."""
    if model is None:
        return TrainResult(*group.run_on_first(lambda: load_model(folder / MODEL)), result, was_finished=True)
    return TrainResult(cast("ResNet", model), load_own_weights(folder, model), result, was_finished=True)


def _open(out: Path, config: RunConfig, options: RuntimeOptions, stack: contextlib.ExitStack) -> ResumePoint:
    """Lock the run directory until `stack` closes, and return where the run continues."""
    stack.enter_context(lock_dir(out, "run"))
    return open_run_dir(
        out, config, resume=options.resume, fresh=options.fresh, allow_config_change=options.allow_config_change
    )


class _RunLog(Callback):
    """Writes the lines of the record while a run goes on.

    The files of an earlier run change from `on_start` on, not before: loading may fail, and the earlier run stays.
    """

    def __init__(self, record: Record, take_files: Callable[[], None]) -> None:
        self._record, self._take_files = record, take_files

    def on_start(self, trainer: TrainerComponents) -> None:
        self._take_files()
        if not trainer.is_resumed:
            self._record.write("run", **run_line(trainer))

    def on_step(self, trainer: TrainerComponents, metrics: StepMetrics) -> None:
        if metrics.layer_stats:
            self._record.write("signal", **metrics.layer_stats)

    def on_epoch(self, trainer: TrainerComponents, line: Mapping[str, Any]) -> None:
        self._record.write("epoch", **line)

    def on_warning(self, trainer: TrainerComponents, message: str) -> None:
        self._record.write("warning", message=message)


@dataclass
class _Run:
    """A run whose record is open; `out` is `None` without a directory, and in all processes but the first."""

    out: Path | None
    record: Record
    resume: ResumePoint
    options: RuntimeOptions
    callbacks: Sequence[Callback]
    stop_signal: StopSignal
    model: nn.Module | None = None

    def train(self, config: RunConfig) -> TrainResult:
        """Train and evaluate; an error is recorded before it is raised."""
        saved = self.resume.checkpoint
        start_s = time.perf_counter() - (saved.state["run"]["time_s"] if saved else 0.0)
        try:
            with self.options.process_group.name_lost_processes(), contextlib.ExitStack() as stack:
                return self._train(config, stack)
        except (InterruptedRunError, UnsavedError):
            raise
        except Exception as error:
            diverged = isinstance(error, DivergedError)
            self.record.write(
                "result",
                status="diverged" if diverged else "failed",
                error=str(error) or type(error).__name__,
                **(error.batch if diverged else {}),
                time_s=time.perf_counter() - start_s,
            )
            raise

    def _train(self, config: RunConfig, stack: contextlib.ExitStack) -> TrainResult:
        trainer = Trainer(
            config,
            [_RunLog(self.record, lambda: self._take_files(config)), *self.callbacks],
            options=self.options,
            checkpoint=self.resume.checkpoint,
            stop_signal=self.stop_signal,
            model=self.model,
        )
        logger = open_logger(self.out and self.options.track, self.out or Path(), trainer.state.step, trainer.warn)
        trainer.callbacks.append(stack.enter_context(logger))
        if self.resume.changed and trainer.is_resumed:
            trainer.warnings.append(f"{CONTINUED}another configuration: {'; '.join(self.resume.changed)}")
        if self.resume.before is not None and (saved := self.resume.checkpoint) is not None:
            result = self.resume.earlier_result
            trainer.warnings += describe_changes(trainer, self.resume.before, saved.state, result)
        if self.out is not None:
            trainer.checkpoints = self._checkpoints(trainer, self.out / CHECKPOINT)
            if self.options.keep_states_epochs is not None:
                trainer.callbacks.append(KeepStates(self.out / STATES, self.options.keep_states_epochs))
        result = trainer.fit()
        if self.out is not None:
            self._write_result(self.out, result, trainer.checkpoints)
        return result

    def _take_files(self, config: RunConfig) -> None:
        """Change the files of an earlier run; a kill in between leaves a run that can be continued or replaced."""
        if self.out is None:
            return
        replaced = self.resume.replaced
        remove_paths(*(path for path in replaced if path.name == CHECKPOINT))  # it needs the record as it is
        self.record.release()
        remove_paths(*(path for path in replaced if path.name not in (CONFIG, RECORD)))
        with contextlib.suppress(OSError):  # unless this run writes there
            (self.out / "tensorboard").rmdir()
        if self.resume.changed or replaced:
            write_config(self.out, config)

    def _checkpoints(self, trainer: Trainer, folder: Path) -> CheckpointManager:
        """Return the manager that saves the trainer's state, and how long the record is at that moment."""

        def state() -> Checkpoint:
            self.record.flush(sync=True)
            saved = trainer.state_dict()
            return Checkpoint({**saved["state"], "record_bytes": self.record.num_bytes}, saved["tensors"])

        return CheckpointManager(
            folder,
            state,
            trainer.warn,
            every_s=self.options.checkpoint_s,
            every_steps=self.options.checkpoint_steps,
        )

    def _write_result(self, out: Path, result: TrainResult, checkpoints: CheckpointManager) -> None:
        """Write the model file and the result line.

        Raises:
            UnsavedError: if the record or the last checkpoint could not be written.
        """
        save_model(out / (MODEL if self.model is None else OWN_WEIGHTS), result.model, result.card)
        self.record.write("result", **result.result)
        if self.record.problem:
            raise UnsavedError(f"{out / RECORD}: its last lines cannot be written ({self.record.problem})")
        checkpoints.raise_if_unsaved("the model file and the record are whole")
