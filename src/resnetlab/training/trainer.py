"""Train one network: `fit`, a loop that reads aloud.

Paper: section 3.4 (SGD with momentum and weight decay), section 4.2 (CIFAR).
"""

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from resnetlab.config import ConfigError, RunConfig
from resnetlab.data.shards.fetch import RemoteError
from resnetlab.models.model_file import ModelCard, load_model, save_model
from resnetlab.models.resnet import ResNet
from resnetlab.system.dir_lock import lock_dir
from resnetlab.training.callbacks import Callback
from resnetlab.training.checkpoint import Checkpoint
from resnetlab.training.checkpoint_manager import CheckpointManager, UnsavedError
from resnetlab.training.distributed import broadcast_bn_statistics
from resnetlab.training.optimizer import set_mode
from resnetlab.training.provenance import provenance
from resnetlab.training.record import Record
from resnetlab.training.run_context import Around, open_record
from resnetlab.training.run_dir import CHECKPOINT, MODEL, RECORD, ResumePoint, open_run_dir, remove_unstarted
from resnetlab.training.runtime_options import RuntimeOptions
from resnetlab.training.signal_handling import InterruptedRunError, StopSignal
from resnetlab.training.tensorboard import MetricLogger, open_logger
from resnetlab.training.train_state import pack
from resnetlab.training.train_step import DivergedError, StepResult, diverged, lr_now, summary, train_steps
from resnetlab.training.trainer_setup import Training, prepare


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What `fit` gives back."""

    model: ResNet
    """The kept network, on the CPU, in evaluation mode."""
    card: ModelCard
    result: dict[str, Any]
    """The record's last line: errors in %, times in seconds."""


def fit(
    config: RunConfig,
    out: Path | str | None = None,
    *,
    session: RuntimeOptions | None = None,
    listener: Callback | None = None,
    interruption: StopSignal | None = None,
) -> TrainResult:
    """Train a network, judge it, and leave a run directory.

    Args:
        config: What to run. The network's channels and classes are taken from the data.
        out: The run directory: `config.json`, `record.jsonl`, `checkpoint/`, `model.safetensors`; `None` for none.
        session: How to carry it out: workers, checkpoints, whether to resume.
        listener: Hears how it goes.
        interruption: What may ask the run to stop; it then saves and raises.

    Raises:
        ConfigError: for a configuration that the data or the machine does not allow, or that is not the run's own.
        DivergedError: when the loss is not finite ten times in a row; the record says so too.
        FileExistsError: where `out` holds a run already and `session.resume` is off.
        InterruptedRunError: after a signal; the state is saved.
        UnsavedError: where the run is done but could not be written.
    """
    session, listener, interruption = session or RuntimeOptions(), listener or Callback(), interruption or StopSignal()
    world = session.world
    interruption.shared = world.size > 1
    if out is None:
        with Record(None) as record:
            return _fit(config, ResumePoint(), Around(None, record, session, listener, interruption))
    out = Path(out)
    with contextlib.ExitStack() as stack:
        beginning = world.from_first(lambda: _begin(out, config, session, stack))
        if beginning.result is not None:
            return TrainResult(*world.from_first(lambda: load_model(out / MODEL)), beginning.result)
        if not world.is_first:
            with Record(None) as record:
                return _fit(config, beginning, Around(None, record, session, listener, interruption))
        try:
            with Record(out / RECORD, keep_bytes=beginning.record_bytes) as record:
                return _fit(config, beginning, Around(out, record, session, listener, interruption))
        except (ConfigError, InterruptedRunError, RemoteError):
            remove_unstarted(out)
            raise


def _begin(out: Path, config: RunConfig, session: RuntimeOptions, stack: contextlib.ExitStack) -> ResumePoint:
    """Claim the run directory for as long as `stack` stands, and look where the run begins."""
    stack.enter_context(lock_dir(out, "run"))
    return open_run_dir(
        out, config, resume=session.resume, fresh=session.fresh, allow_config_change=session.allow_config_change
    )


def _fit(config: RunConfig, beginning: ResumePoint, around: Around) -> TrainResult:
    """Train and judge with the record open; whatever happens stands in it."""
    earlier_s = beginning.checkpoint.state["run"]["time_s"] if beginning.checkpoint else 0.0
    start_s = time.perf_counter() - earlier_s
    try:
        with around.session.world.naming():
            return _carry_out(config, beginning, around, start_s)
    except (InterruptedRunError, UnsavedError):
        raise
    except Exception as error:
        diverged = isinstance(error, DivergedError)
        where, reason = error.batch if diverged else {}, str(error) or type(error).__name__
        around.record.write(
            "result",
            status="diverged" if diverged else "failed",
            error=reason,
            **where,
            time_s=time.perf_counter() - start_s,
        )
        raise


def _carry_out(config: RunConfig, beginning: ResumePoint, around: Around, start_s: float) -> TrainResult:
    """Train, judge and write what is left of it."""
    session = around.session
    training = prepare(
        config, beginning.checkpoint, workers=session.workers, world=session.world, cache_gib=session.cache_gib
    )
    training.together.interruption = around.interruption
    out, step = around.out, training.state.step
    with open_logger(out and session.track, out or Path(), step, around.warn) as tracker:
        open_record(training, beginning, around)
        try:
            saver = train(training, around, tracker, start_s)
        except DivergedError as error:
            error.batch = batch_positions(training)
            raise
    try:
        with around.interruption.at_once():
            result, model, card = judge(training)
    except InterruptedRunError:
        saver.insist("stopped, the last good one stays")
        raise
    training.hear_of_bad_images(around.warn)
    result["time_s"] = time.perf_counter() - start_s
    return leave(around, saver, TrainResult(model, card, result))


def train(training: Training, around: Around, tracker: MetricLogger, start_s: float) -> CheckpointManager:
    """Take every step that is left, and save now and then; the state is on disk at the end, also of a stopped run."""
    state, record, interruption = training.state, around.record, around.interruption

    def gather() -> Checkpoint:
        record.flush(sync=True)
        state.time_s = time.perf_counter() - start_s
        return pack(
            state, training.best, training.model, training.optimizer, record_bytes=record.num_bytes, **training.resuming
        )

    out, session = around.out, around.session
    saver = CheckpointManager(
        out and out / CHECKPOINT,
        gather,
        around.warn,
        every_s=session.checkpoint_s,
        every_steps=session.checkpoint_steps,
    )
    try:
        with interruption.deferred():
            while state.epochs_done < training.num_epochs:
                for taken in train_epoch(training):
                    if taken.signal:
                        record.write("signal", **taken.signal)
                    if taken.progress:
                        around.listener.see(taken.progress)
                        tracker.scalars(taken.progress.step, taken.progress.tracked())
                    interruption.check()
                    if state.streak == 0:  # weights that give no finite loss are not worth keeping
                        saver.after_step(state.step)
                line = finish_epoch(training, interruption)
                training.hear_of_bad_images(around.warn)
                record.write("epoch", **line)
                around.listener.epoch(line)
                tracker.scalars(state.step, {f"val/{name}": line[f"val_{name}"] for name in ("loss", "error_pct")})
            saver.save()
    except InterruptedRunError:
        training.hear_of_bad_images(around.warn)
        if state.streak == 0:
            saver.save()
        session.world.gather(None)  # torchrun ends the others when one leaves, and the first one is still writing
        saver.insist("stopped, the last good one stays")
        raise
    return saver


def train_epoch(training: Training) -> Iterator[StepResult]:
    """Take the steps that the epoch under way still lacks; yield after each."""
    state = training.state
    first = state.epochs_done * training.epoch_steps
    steps = range(first, min(first + training.epoch_steps, training.total_steps))
    set_mode(training.model, training.config.recipe, state.epochs_done)
    training.share()
    with contextlib.closing(training.batches(state.epochs_done, state.step - first)) as batches:
        yield from train_steps(
            training.model,
            training.optimizer,
            training.forward,
            batches,
            training.config.recipe,
            state,
            steps,
            training.sampler,
            training.together,
        )
    if state.streak and steps.stop == training.total_steps:
        lr = lr_now(state, training.total_steps, training.config.recipe)
        raise diverged(float("nan"), state, steps, training.total_steps, lr)


def finish_epoch(training: Training, interruption: StopSignal) -> dict[str, Any]:
    """Judge the network on the validation split; return the epoch's line. A signal leaves everything as it was."""
    state = training.state
    lr = state.curve[-1]["lr"] if state.curve else None
    broadcast_bn_statistics(training.model, training.together.world)
    worker_speed = training.worker_images_per_s()  # before others are decoded
    with interruption.at_once():
        val = training.score(training.model, "val")
    state.epochs_done += 1
    state.val_errors.append(val.error_pct)
    training.best.see(state.epochs_done, val.error_pct, training.model)
    time_s, wait_s = state.train_time_s - state.epoch_start_s, state.wait_s - state.epoch_start_wait_s
    num_steps = state.step - (state.epochs_done - 1) * training.epoch_steps
    line = {
        "epoch": state.epochs_done,
        "step": state.step,
        "lr": lr,
        **summary(state.curve),
        "val_loss": val.loss,
        "val_error_pct": val.error_pct,
        "time_s": time_s,
        "images_per_s": num_steps * training.config.recipe.batch_size / time_s,
        "data_wait_pct": 100 * wait_s / time_s,
        "worker_images_per_s": worker_speed,
    }
    state.curve, state.epoch_start_s, state.epoch_start_wait_s = [], state.train_time_s, state.wait_s
    return line


def judge(training: Training) -> tuple[dict[str, Any], ResNet, ModelCard]:
    """Measure the kept network on every split, the test split for the first and only time."""
    config, state, best = training.config, training.state, training.best
    model = training.kept()
    errors: dict[str, float | None] = {}
    for name, split in training.splits.items():
        judged = training.score(model, name) if len(split) else None
        errors[f"{name}_error_pct"] = judged.error_pct if judged else None
    speed = state.step * config.recipe.batch_size / state.train_time_s
    result = {
        "status": "done",
        **errors,
        "steps": state.step,
        "skipped_steps": state.num_skipped,
        "kept": config.recipe.keep,
        "best_epoch": best.epoch,
        "best_val_error_pct": best.error_pct,
        "images_per_s": speed,
        "data_wait_pct": 100 * state.wait_s / state.train_time_s,
    }
    card = ModelCard(
        config.model,
        training.data.classes,
        training.preprocessing,
        provenance(config, training.data, training.preprocessing),
        errors,
    )
    return result, model.cpu().eval(), card


def batch_positions(training: Training) -> dict[str, Any]:
    """Say which samples the last batch held: places in the epoch's order, and where they came from if that is known."""
    size = training.config.recipe.batch_size
    position = (training.state.step - 1) % training.epoch_steps * size
    samples = training.order(training.state.epochs_done)[position : position + size].tolist()
    names = training.data.train.names
    return {
        "epoch": training.state.epochs_done + 1,
        "positions": [position, position + size - 1],
        "samples": [names[sample] for sample in samples] if names else samples,
    }


def leave(around: Around, saver: CheckpointManager, fitted: TrainResult) -> TrainResult:
    """Write the model file and the result line.

    Raises:
        UnsavedError: where the record or the last checkpoint could not be written.
    """
    if around.out is None:
        return fitted
    save_model(around.out / MODEL, fitted.model, fitted.card)
    around.record.write("result", **fitted.result)
    if around.record.problem:
        raise UnsavedError(f"{around.out / RECORD}: its last lines cannot be written ({around.record.problem})")
    saver.insist("the model file and the record are whole")
    return fitted
