"""The interface through which a training run reports to displays, loggers and a user's own code."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnetlab.training.metrics import StepMetrics
    from resnetlab.training.trainer import Trainer


class Callback:
    """Base class of callbacks; every method does nothing, so override what you need.

    Pass callbacks to `Trainer` or `fit`. They are called in the order given, in the training process. An exception
    that a callback raises ends the run, which the record then calls failed.
    """

    def on_start(self, trainer: "Trainer") -> None:
        """Run before the first step; `trainer.describe()` gives the resolved configuration as lines of text."""

    def on_step(self, trainer: "Trainer", metrics: "StepMetrics") -> None:
        """Run after each training step; `metrics.progress` is set on about 13 steps of an epoch.

        On a GPU several steps are reported together, when their losses are read (`RuntimeOptions.loss_steps`): the
        weights are then those after the last of them.
        """

    def on_epoch(self, trainer: "Trainer", line: Mapping[str, Any]) -> None:
        """Run after each epoch and its validation, with the record's `epoch` line: errors in %, times in seconds."""

    def on_last_evaluation(self, trainer: "Trainer", epoch: int, expected_s: float | None) -> None:
        """Run before the weights of an epoch are evaluated on every split, which takes about so many seconds.

        `expected_s` is `None` if no validation was timed: no epoch was trained by this process.
        """

    def on_end(self, trainer: "Trainer", result: Mapping[str, Any]) -> None:
        """Run after the last evaluation, with the record's `result` line."""

    def on_warning(self, trainer: "Trainer", message: str) -> None:
        """Run when the user should know something, such as an image that was skipped."""
