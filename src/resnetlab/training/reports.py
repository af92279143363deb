"""The reports of a run: progress, the record's lines for epochs and the result, the model card, and its errors."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from resnetlab.evaluation.chance import are_unequal
from resnetlab.evaluation.multi_label import MultiLabelScore
from resnetlab.evaluation.protocols import SplitScore
from resnetlab.models.model_card import ModelCard
from resnetlab.models.resnet import ResNet
from resnetlab.training.calibrate import fit_run_temperature, fit_run_thresholds
from resnetlab.training.metrics import MetricWindow, Progress, curve_point, epoch_summary
from resnetlab.training.run_files.provenance import machine, provenance
from resnetlab.training.train_step import DivergedError, diverged_message

if TYPE_CHECKING:
    from resnetlab.training.trainer_setup import TrainerComponents


@dataclass(frozen=True)
class TrainResult:
    """The result of a training run: network, model card and errors."""

    model: ResNet
    """The selected network (`Recipe.keep`), on the CPU, in evaluation mode."""
    card: ModelCard
    """Architecture, classes, preprocessing, provenance and errors: all that a model file stores besides weights."""
    result: dict[str, Any]
    """The record's `result` line: errors in %, times in seconds."""
    was_finished: bool = False
    """Whether the run was finished before: nothing was trained, and the result is that of its record."""


def close_window(trainer: "TrainerComponents", lr: float, images_per_s: float) -> Progress | None:
    """Report on the steps since the last report; `None` if none of them had a finite loss.

    The learning rate leaves the recipe's `initial_lr` when the training error of such a report is low enough.
    """
    state, recipe = trainer.state, trainer.config.recipe
    window, state.window = state.window, MetricWindow()
    if window.num_steps == 0:
        return None
    progress = Progress(
        epoch=state.epochs_done + 1,
        step=state.step,
        total_steps=trainer.total_steps,
        num_steps=window.num_steps,
        loss=window.loss / window.num_steps,
        train_error_pct=100 * window.num_wrong / window.num_images,
        lr=lr,
        images_per_s=images_per_s,
    )
    state.curve.append(curve_point(progress))
    if progress.train_error_pct < recipe.initial_lr_until_pct:
        state.at_initial_lr = False
    return progress


def run_line(trainer: "TrainerComponents") -> dict[str, Any]:
    """Return the record's `run` line: everything known before the first step. `macs` are for one image."""
    config, model = trainer.config, trainer.model
    return {
        **provenance(config, trainer.data.dataset, trainer.data.preprocessing),
        **(
            {"own_model": config.own_model}
            if config.own_model
            else {"arm": config.model.arm, "depth": config.model.depth}
        ),
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "macs": trainer.macs,
        "machine": machine(trainer.data.device),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "execution": trainer.execution.as_json(),
        **({"start": trainer.start} if trainer.start else {}),
        **sharing(trainer),
    }


def epoch_line(trainer: "TrainerComponents", val: SplitScore, decoded_per_s: float | None) -> dict[str, Any]:
    """Return the record's `epoch` line of the epoch that was just validated."""
    state = trainer.state
    time_s, wait_s = state.train_time_s - state.epoch_start_s, state.data_wait_s - state.epoch_start_wait_s
    num_steps = state.step - (state.epochs_done - 1) * trainer.steps_per_epoch
    return {
        "epoch": state.epochs_done,
        "step": state.step,
        "lr": state.curve[-1]["lr"] if state.curve else None,
        **epoch_summary(state.curve),
        "val_loss": val.loss,
        "val_error_pct": val.error_pct,
        **_val_precision(val),
        "time_s": time_s,
        "images_per_s": num_steps * trainer.config.recipe.batch_size / time_s,
        "data_wait_pct": 100 * wait_s / time_s,
        "worker_images_per_s": decoded_per_s,
    }


def _val_precision(val: SplitScore) -> dict[str, float | None]:
    if not isinstance(val, MultiLabelScore):
        return {}
    return {"val_mean_average_precision_pct": val.mean_average_precision_pct}


def result_line(trainer: "TrainerComponents", scores: Mapping[str, SplitScore | None]) -> dict[str, Any]:
    """Return the record's `result` line of a run that ended; `scores` are those of its splits, `None` for an empty one.

    `chance` and `macro_error_pct` have an entry for each split.
    """
    state, recipe = trainer.state, trainer.config.recipe
    return {
        "status": "done",
        **split_errors(scores),
        "macro_error_pct": {name: score and score.macro_error_pct for name, score in scores.items()},
        "chance": {name: score and score.chance(trainer.data.dataset.classes) for name, score in scores.items()},
        **mean_average_precisions(scores),
        "unequal_classes": are_unequal(trainer.data.class_counts),
        "epochs": state.epochs_done,
        **({} if recipe.early_stop_epochs is None else {"stopped_early": state.step < trainer.total_steps}),
        "steps": state.step,
        "skipped_steps": state.num_skipped,
        "kept": recipe.keep if trainer.best.epoch else "last",
        **_best_epoch(trainer),
        "images_per_s": state.step * recipe.batch_size / state.train_time_s,
        "data_wait_pct": 100 * state.data_wait_s / state.train_time_s,
        "time_s": trainer.time_s,
    }


def _best_epoch(trainer: "TrainerComponents") -> dict[str, Any]:
    """Return the best epoch and what it was the best in: the validation error, or mAP with several labels an image."""
    best = trainer.best
    if trainer.data.dataset.train.is_multi_label:
        precision = 100 - best.error_pct if best.epoch else None
        return {"best_epoch": best.epoch, "best_val_error_pct": None, "best_val_mean_average_precision_pct": precision}
    return {"best_epoch": best.epoch, "best_val_error_pct": best.error_pct if best.epoch else None}


def evaluation_time_s(trainer: "TrainerComponents") -> float | None:
    """Return the seconds that every split takes, by the time of the last validation; `None` without one."""
    sizes = {name: len(split) for name, split in trainer.data.splits.items()}
    if trainer.val_time_s is None or not sizes["val"]:
        return None
    return trainer.val_time_s * sum(sizes.values()) / sizes["val"]


def split_errors(scores: Mapping[str, SplitScore | None]) -> dict[str, float | None]:
    """Return the error of each split in %, as `train_error_pct` and so on."""
    return {f"{name}_error_pct": score and score.error_pct for name, score in scores.items()}


def mean_average_precisions(scores: Mapping[str, SplitScore | None]) -> dict[str, Any]:
    """Return the mean average precision of each split in %; empty where images have one class each."""
    found = {name: s.mean_average_precision_pct for name, s in scores.items() if isinstance(s, MultiLabelScore)}
    return {"mean_average_precision_pct": found} if found else {}


def model_card(trainer: "TrainerComponents", errors: dict[str, float | None]) -> ModelCard:
    """Return the card of the trained network, with a temperature if the configuration asks for one."""
    config, data = trainer.config, trainer.data
    origin = provenance(config, data.dataset, data.preprocessing)
    if config.recipe.keep == "best" and trainer.best.weights:  # else the last epoch
        origin["epoch"] = trainer.best.epoch
    return ModelCard(
        config.model,
        data.dataset.classes,
        data.preprocessing,
        provenance=origin,
        error=errors,
        temperature_scaling=fit_run_temperature(trainer),
        multi_label=fit_run_thresholds(trainer),
    )


def diverged_error(trainer: "TrainerComponents", loss: float, lr: float) -> DivergedError:
    """Return the error for a run whose last steps had no finite loss, naming the samples of its last batch."""
    state, first = trainer.state, trainer.epoch_steps().start
    message = diverged_message(
        loss,
        steps=range(state.step - state.num_skipped_in_row + 1, state.step + 1),
        total_steps=trainer.total_steps,
        lr=lr,
        recipe_lr=trainer.config.recipe.lr,
        batch=state.step - first,
    )
    return DivergedError(message, last_batch(trainer))


def last_batch(trainer: "TrainerComponents") -> dict[str, Any]:
    """Return where the last batch stood in the order of its epoch, and its samples by name, else by number."""
    size = trainer.config.recipe.batch_size
    position = (trainer.state.step - 1) % trainer.steps_per_epoch * size
    samples = trainer.data.order(trainer.state.epochs_done)[position : position + size].tolist()
    names = trainer.data.dataset.train.names
    return {
        "epoch": trainer.state.epochs_done + 1,
        "positions": [position, position + size - 1],
        "samples": [names[sample] for sample in samples] if names else samples,
    }


def bn_batch_size(trainer: "TrainerComponents", processes: int, micro_batches: int) -> int:
    """Return the images, at least, over which batch normalisation takes its statistics in training."""
    config = trainer.config
    return config.recipe.batch_size // (micro_batches if config.sync_bn else processes * micro_batches)


def sharing(trainer: "TrainerComponents") -> dict[str, Any]:
    """Return the record's fields for a run over several processes or micro-batches; empty for one of each."""
    size, micro_batches = trainer.grad_sync.size, trainer.grad_sync.micro_batches
    if size * micro_batches == 1:
        return {}
    return {
        "processes": size,
        "micro_batches": micro_batches,
        "images_normalised_together": bn_batch_size(trainer, size, micro_batches),
    }


def bn_batch_warning(trainer: "TrainerComponents", saved: Mapping[str, Any]) -> str | None:
    """Return a warning if batch normalisation sees another number of images than before the run was resumed.

    Args:
        trainer: The run as it continues.
        saved: The state of the checkpoint; old ones lack the number of processes.
    """
    if "processes" not in saved or trainer.config.model.norm == "none" or trainer.config.recipe.freeze_bn:
        return None
    size, micro_batches = trainer.grad_sync.size, trainer.grad_sync.micro_batches
    images = bn_batch_size(trainer, size, micro_batches)
    if images == bn_batch_size(trainer, saved["processes"], saved["micro_batches"]):
        return None
    processes = "1 process" if size == 1 else f"{size} processes"
    return f"continued with {processes}; BN over {images:,} images from step {trainer.state.step + 1:,}"
