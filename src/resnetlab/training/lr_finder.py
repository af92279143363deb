"""The learning-rate finder: training steps at a rate that rises exponentially, and the rate that their losses suggest.

Smith, 2017, "Cyclical learning rates for training neural networks", section 3.3 (range test), with the exponential
sweep, the smoothing, the end and the suggestions of fastai (`lr_find`).
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from resnetlab.config import Recipe, RunConfig
from resnetlab.serialization import at_least, check
from resnetlab.training.execution.execution import kept_threads
from resnetlab.training.runtime_options import RuntimeOptions
from resnetlab.training.trainer import Trainer

SMOOTHING = 0.9
"""Share of the smoothed loss that stays at each step. The mean over fastai's 0.98 lags by half of a sweep."""
DIVERGED = 4.0
"""The sweep ends when the smoothed loss exceeds its minimum by this factor, as in fastai."""
MIN_FALL = 0.05
"""Share of the first loss by which the smoothed loss must fall for a suggestion: less is noise between batches."""


@dataclass(frozen=True)
class LrSweep:
    """The learning rates of a sweep, which rise by equal factors.

    Raises:
        ConfigError: if a value is out of range.
    """

    min_lr: float = 1e-5
    """First learning rate, above 0."""
    max_lr: float = 10.0
    """Last learning rate, above `min_lr`; the sweep ends before it if the loss diverges."""
    steps: int = 100
    """Training steps, at least 10."""

    def __post_init__(self) -> None:
        check(
            0 < self.min_lr < self.max_lr < math.inf,
            f"min_lr {self.min_lr:g} must be above 0 and below max_lr {self.max_lr:g}",
        )
        at_least(10, self, "steps")

    def lr_at(self, step: int) -> float:
        """Return the rate of a step, counted from 0: equal factors from one step to the next."""
        return self.min_lr * (self.max_lr / self.min_lr) ** (step / (self.steps - 1))


@dataclass(frozen=True)
class LrCurve:
    """The losses of a sweep, in nats, one for each step."""

    lr: tuple[float, ...]
    """The learning rate of each step."""
    loss: tuple[float, ...]
    """Finite loss of the batch, before the step at this rate."""
    smoothed: tuple[float, ...]
    """Its exponential mean, corrected for the start."""
    diverged_lr: float | None
    """The rate at which the sweep ended, because the smoothed loss exceeded its minimum by far or the loss was not
    finite; `None` if it reached its last rate."""

    @property
    def lowest_lr(self) -> float:
        """The rate at the lowest smoothed loss."""
        return self.lr[int(np.argmin(self.smoothed))]

    @property
    def falls(self) -> bool:
        """Whether the smoothed loss falls by `MIN_FALL` of its first value, so that a rate can be suggested."""
        return self.smoothed[0] - min(self.smoothed) >= MIN_FALL * self.smoothed[0]

    @property
    def suggested_lr(self) -> float | None:
        """A tenth of `lowest_lr`, as fastai suggests; `None` if the loss hardly falls.

        At `lowest_lr` itself the loss is about to rise. The rate of steepest descent, the other usual suggestion,
        depends more on which images are in a batch (docs/log.md).
        """
        return self.lowest_lr / 10 if self.falls else None

    def as_json(self) -> dict[str, Any]:
        """Return the curve and what follows from it as JSON values."""
        return {
            "suggested_lr": self.suggested_lr,
            "lowest_lr": self.lowest_lr,
            "diverged_lr": self.diverged_lr,
            "lr": list(self.lr),
            "loss": list(self.loss),
            "smoothed_loss": list(self.smoothed),
        }


@kept_threads()
def find_lr(
    config: RunConfig,
    sweep: LrSweep | None = None,
    *,
    options: RuntimeOptions | None = None,
    on_start: Callable[[Trainer], None] = lambda trainer: None,
    on_step: Callable[[int, float, float], None] = lambda step, lr, loss: None,
) -> LrCurve:
    """Train a network in memory at rising learning rates and return the losses. Nothing is written, nothing evaluated.

    The steps are those of a run of `config`: data, augmentation, optimizer, precision, weights. Left out are what
    belongs to another length or rate: schedule, warm-up, epochs of the head alone, changing image sizes (the first one
    is used), the average of the weights.

    Args:
        config: Network, data, recipe and seed.
        sweep: First and last rate, and the number of steps.
        options: Processes, workers, cache.
        on_start: Called before the first step.
        on_step: Called after each step with its number, counted from 1, its rate and its loss.

    Raises:
        ConfigError: if data or machine do not allow the configuration.
    """
    sweep = sweep or LrSweep()
    trainer = _SweepTrainer(sweep_config(config, sweep.steps), options=options, sweep=sweep)
    on_start(trainer)
    rates: list[float] = []
    losses: list[float] = []
    while trainer.state.step < sweep.steps and not has_diverged(losses):
        first = trainer.state.epochs_done * trainer.steps_per_epoch
        with contextlib.closing(trainer.data.batches(trainer.state.epochs_done)) as batches:
            for _ in range(first, min(first + trainer.steps_per_epoch, sweep.steps)):
                rates.append(trainer.lr())
                losses.append(trainer.train_step(batches).loss)
                on_step(trainer.state.step, rates[-1], losses[-1])
                if has_diverged(losses):
                    break
        trainer.state.epochs_done += 1
        trainer.state.start_epoch()
    finite = [loss for loss in losses if math.isfinite(loss)]  # a loss that is not finite is the last one
    check(bool(finite), f"the loss is not finite at the first learning rate, {sweep.min_lr:g}; give a lower --min-lr")
    smoothed = smooth(finite)
    return LrCurve(
        tuple(rates[: len(finite)]), tuple(finite), tuple(smoothed), rates[-1] if has_diverged(losses) else None
    )


class _SweepTrainer(Trainer):
    """A trainer whose learning rate is that of a sweep."""

    def __init__(self, config: RunConfig, *, options: RuntimeOptions | None, sweep: LrSweep) -> None:
        self._sweep = sweep
        super().__init__(config, options=options)

    def lr(self, ahead: int = 0) -> float:
        """Return the learning rate of the next step, or of one that follows it `ahead` steps later."""
        return self._sweep.lr_at(self.state.step + ahead)


def sweep_config(config: RunConfig, steps: int) -> RunConfig:
    """Return a run's configuration for a sweep: the same steps, without what depends on the length of the run."""
    changed: dict[str, Any] = {name: getattr(Recipe(), name) for name in UNUSED_FIELDS}
    recipe = dataclasses.replace(
        config.recipe,
        **changed,
        steps=steps,
        schedule="constant",
        train_sizes=config.recipe.train_sizes[:1],
    )
    return dataclasses.replace(config, recipe=recipe, layer_stats_steps=0)


UNUSED_FIELDS = (
    "warmup_steps",
    "warmup_epochs",
    "initial_lr",
    "frozen_epochs",
    "ema_decay",
    "keep",
    "early_stop_epochs",
)
"""Fields of `Recipe` that have their defaults in a sweep."""


def smooth(losses: Sequence[float]) -> list[float]:
    """Return the exponential mean of losses after each step, corrected for the start at zero."""
    mean, smoothed = 0.0, []
    for number, loss in enumerate(losses, start=1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smoothed.append(mean / (1 - SMOOTHING**number))
    return smoothed


def has_diverged(losses: Sequence[float]) -> bool:
    """Return whether a sweep ends: the last loss is not finite, or the smoothed one exceeds its minimum by far."""
    if not losses:
        return False
    if not math.isfinite(losses[-1]):
        return True
    smoothed = smooth(losses)
    return smoothed[-1] > DIVERGED * min(smoothed)
