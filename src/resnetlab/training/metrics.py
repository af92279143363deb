"""The numbers of a training run: of one step, of the steps since the last report, and of an epoch."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

REPORTS_PER_EPOCH = 13
"""Progress reports in an epoch."""


@dataclass(frozen=True)
class Progress:
    """Means over the training steps since the previous report; about 13 reports an epoch."""

    epoch: int
    """Counted from 1."""
    step: int
    """Steps taken so far in the run."""
    total_steps: int
    num_steps: int
    """Steps that this report covers."""
    loss: float
    """Mean over those steps, in nats."""
    train_error_pct: float
    """Error of the augmented images in training mode, each measured before the update of its step. The class of a mixed
    image (mixup, CutMix) is the one with the larger share; it is no error of single images then."""
    lr: float
    images_per_s: float
    """Images trained on per second, including the wait for data."""

    def scalars(self) -> dict[str, float | None]:
        """Return the values that TensorBoard plots, by tag."""
        return {
            "train/loss": self.loss,
            "train/error_pct": self.train_error_pct,
            "lr": self.lr,
            "images_per_s": self.images_per_s,
        }


@dataclass(frozen=True)
class StepMetrics:
    """The numbers of one training step, over all processes and micro-batches."""

    step: int
    """Steps taken so far in the run, this one included."""
    epoch: int
    """Counted from 1."""
    loss: float
    """Mean over the images, in nats; not finite where the step was skipped."""
    num_wrong: int
    num_images: int
    lr: float
    layer_stats: dict[str, Any] | None = None
    """Statistics of every layer, on the steps that sample them (`LayerStats.to_record`)."""
    progress: Progress | None = None
    """The report that this step completes, on about 13 steps of an epoch."""


@dataclass
class MetricWindow:
    """Sums over the steps since the previous progress report."""

    num_steps: int = 0
    loss: float = 0.0
    num_wrong: int = 0
    num_images: int = 0

    def add(self, loss: float, num_wrong: int, num_images: int) -> None:
        """Add one step; `loss` is the mean over its images."""
        self.num_steps += 1
        self.loss += loss
        self.num_wrong += num_wrong
        self.num_images += num_images


class ProgressMeter:
    """Decides when a progress report is due in an epoch, and measures the speed between two reports."""

    def __init__(self, steps: range) -> None:
        """Report on the `steps` of one epoch, numbered through the run."""
        self._steps = steps
        self._interval = max(1, len(steps) // REPORTS_PER_EPOCH)
        self._last_s, self._num_images = time.perf_counter(), 0

    def next_report(self, step: int) -> int:
        """Return the number of steps after which the next report is due, if `step` have been taken in the run."""
        done = step - self._steps.start
        return min(step + self._interval - done % self._interval, self._steps.stop)

    def images_per_s(self, step: int, num_images: int) -> float | None:
        """Count the images of a step; return the speed since the last report if one is due after `step`."""
        self._num_images += num_images
        if (step - self._steps.start) % self._interval and step != self._steps.stop:
            return None
        speed = self._num_images / (time.perf_counter() - self._last_s)
        self._last_s, self._num_images = time.perf_counter(), 0
        return speed


def curve_point(progress: Progress) -> dict[str, Any]:
    """Return what the checkpoint stores of a report: everything but the speed, which no other run repeats."""
    point = asdict(progress)
    del point["images_per_s"]
    return point


def epoch_summary(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return an epoch's mean training loss and error, and the curve of its reports, as the record stores them.

    Without any finite loss the means are `None` and the curve is empty.
    """
    if not points:
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
