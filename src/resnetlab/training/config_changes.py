"""The effect of another configuration on a run that continues: schedule, position, and a test split seen before."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from resnetlab.config import RunConfig
from resnetlab.system.count_text import count_text
from resnetlab.training.early_stopping import epochs_without_lower_error
from resnetlab.training.optimizers.lr_schedule import lr_at, num_lr_drops

if TYPE_CHECKING:
    from resnetlab.training.trainer import Trainer

TESTED_BEFORE = "the test split had been measured already"
"""First words of the line on a finished run that is continued and tested again; a record keeps it as a warning."""

CONTINUED = "continued with "
"""First words of the warnings on a run that went on under other conditions than it was started with."""


def describe_changes(
    trainer: "Trainer", before: RunConfig, saved: Mapping[str, Any], result: Mapping[str, Any]
) -> list[str]:
    """Return what the new configuration changes from the next step on, one line each; empty if nothing.

    Args:
        trainer: The trainer, which has loaded the checkpoint.
        before: The configuration that the run had until now.
        saved: The state in its checkpoint.
        result: The last `result` line of its record; empty if the run has not ended.
    """
    return [
        *_position(trainer, before, saved),
        *_learning_rate(trainer, before, saved),
        *_kept(trainer, before),
        *_tested(trainer, result),
    ]


def _position(trainer: "Trainer", before: RunConfig, saved: Mapping[str, Any]) -> list[str]:
    now, then, step = trainer.steps_per_epoch, saved["epoch_steps"], saved["run"]["step"]
    done = trainer.state.epochs_done
    taken = step - (done - 1) * then  # in the last epoch that is done
    is_cut = done > 0 and taken < then
    if not trainer.has_epochs_left:
        cut = f", the last after {taken:,} of its {count_text(then, 'step')}" if is_cut else ""
        reason = f"and the new length is {trainer.data.num_epochs:,}"
        if done < trainer.data.num_epochs:
            waited = count_text(epochs_without_lower_error(trainer.state.val_errors), "epoch")
            reason = f"and {waited} without a lower validation error end the run; raise --early-stop-epochs to go on"
        epochs = f"{count_text(done, 'epoch')} {'is' if done == 1 else 'are'} done{cut}"
        return [f"nothing is left to train: {epochs}, {reason}; the network stays as it is"]
    position = (
        f"after {count_text(step, 'step')} the run continues at the start of epoch {done + 1:,}, which is counted as "
        f"step {trainer.state.step:,}"
    )
    if now != then:
        return [f"an epoch has {count_text(now, 'step')} instead of {then:,}: {position}"]
    if is_cut and trainer.state.step != step:
        return [f"epoch {done:,} ended after {taken:,} of its {count_text(then, 'step')} and is done: {position}"]
    if before.recipe.batch_size != trainer.config.recipe.batch_size:
        return [f"a step has {trainer.config.recipe.batch_size:,} images instead of {before.recipe.batch_size:,}"]
    return []


def _kept(trainer: "Trainer", before: RunConfig) -> list[str]:
    if (before.recipe.keep, trainer.config.recipe.keep) != ("last", "best"):
        return []
    first = trainer.state.epochs_done + 1
    return [f"keep best chooses from epoch {first:,} on: the weights of the epochs before were not stored"]


def _learning_rate(trainer: "Trainer", before: RunConfig, saved: Mapping[str, Any]) -> list[str]:
    """Describe the next learning rate if it is not the one that the earlier configuration had for this step."""
    if not trainer.has_epochs_left:
        return []
    run, step = saved["run"], saved["run"]["step"]
    recipe = before.recipe.with_warmup_steps(saved["epoch_steps"])  # as the trainer's
    total = recipe.steps or recipe.epochs * saved["epoch_steps"]
    drops = num_lr_drops(run["val_errors"], recipe.patience) if recipe.schedule == "plateau" else 0

    def rate(at: int) -> float:
        return lr_at(at, total, recipe, at_initial_lr=run["at_initial_lr"], num_drops=drops)

    ended = step >= total
    last, following = rate(max(0, step - 1)), trainer.lr()
    expected = rate(max(0, step - 1) if ended else step)
    if abs(following - expected) <= 1e-9 * max(following, expected):
        return []
    reason = ""
    if total != trainer.total_steps:
        verb = "stretched" if trainer.total_steps > total else "shortened"
        reason = f", since the schedule is {verb} from {total:,} to {trainer.total_steps:,} steps"
    if following > last * (1 + 1e-9):
        return [f"the learning rate goes back up from {last:.3g} to {following:.3g}{reason}"]
    return [f"the learning rate of the next step is {following:.3g} instead of {expected:.3g}{reason}"]


def _tested(trainer: "Trainer", result: Mapping[str, Any]) -> list[str]:
    error = result.get("test_error_pct")
    if result.get("status") != "done" or error is None or not len(trainer.data.splits["test"]):
        return []
    return [f"{TESTED_BEFORE} ({error:.2f} % error) and is measured again; do not choose between the two results"]
