"""Defaults for a user's own images: network, initial weights, recipe and length. Functions of numbers alone.

No value here was selected on a test split. Rate and batch of fine-tuning are those of the recipe `finetune`; the
lengths follow the habit that few images need more epochs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from resnetlab.planning.image_survey import ImageSurvey

SMALL_SIDE = 64
"""Side of the images in pixels up to which they get a CIFAR network: an ImageNet network reduces them 32 times."""
SIZES = (224, 192, 160, 128)
"""Sides of the network's input for photographs, in pixels, from which a time limit selects; all are multiples of 32."""
LIMIT_S = 3600.0
"""Time in seconds to which a run is shortened by itself."""
LARGER_NETWORK_S = 600.0
"""Expected time in seconds up to which the larger of the pretrained networks is used."""
FINETUNE_EPOCHS = ((2_000, 20), (10_000, 10), (100_000, 5), (float("inf"), 3))
"""Epochs of fine-tuning by number of training images: up to this many images, so many epochs."""
SCRATCH_EPOCHS = ((2_000, 100), (10_000, 60), (float("inf"), 30))
"""Epochs from random weights."""
IMAGENET_IMAGES = 500_000
"""Training images above which random weights are trained by `imagenet-90`, the usual recipe for so many."""
MIN_SHARE, MAX_FACTOR = 0.5, 3
"""A time limit may shorten a run to this share of the usual epochs before its images shrink, and lengthen it so many
times."""
MARGIN = 0.95
"""Share of a time limit that a run is planned to use: the expected time is not exact."""


@dataclass(frozen=True)
class StartNetwork:
    """A network and the published weights that a run may start from."""

    model: str
    weights: str | None
    image_size: int | None = None
    """Side of the network's input in pixels; that of the weights or of the images if `None`."""


@dataclass(frozen=True)
class ImageTimes:
    """Measured seconds for one image at one side of the network's input."""

    image_size: int
    train_s: float
    """Training on an image: forward, backward and update, by all threads together."""
    eval_s: float
    """Evaluating an image."""
    decode_s: float = 0.0
    """Decoding an image, by all threads together; 0 if images stay decoded in memory."""
    is_parallel: bool = False
    """Whether images are decoded while the network computes, as beside a GPU."""

    def at(self, image_size: int) -> "ImageTimes":
        """Return the times at another side: in proportion to the pixels."""
        factor = (image_size / self.image_size) ** 2
        return ImageTimes(
            image_size, self.train_s * factor, self.eval_s * factor, self.decode_s, is_parallel=self.is_parallel
        )

    def total_s(self, work: "Work", epochs: float) -> float:
        """Return the seconds of so many epochs with a validation after each, and of the evaluations at the end."""

        def image_s(computed_s: float) -> float:
            return max(computed_s, self.decode_s) if self.is_parallel else computed_s + self.decode_s

        trained = epochs * work.num_train
        evaluated = math.ceil(epochs) * work.num_val + work.num_evaluated
        return trained * image_s(self.train_s) + evaluated * image_s(self.eval_s)


@dataclass(frozen=True)
class Work:
    """The images of an epoch, the usual number of epochs, and the batch."""

    num_train: int
    num_val: int
    num_evaluated: int
    """Images of all splits, which are evaluated once at the end."""
    epochs: int
    batch_size: int


@dataclass(frozen=True)
class Length:
    """The length of a run, and the side of its images."""

    image_size: int
    epochs: int | None
    """Epochs; `None` if the time allows less than one."""
    steps: int | None
    """Steps, if the time allows less than one epoch."""
    expected_s: float


def network_for(survey: ImageSurvey) -> list[StartNetwork]:
    """Return the networks for images of this size: the default one first, then a larger one for fast machines.

    Images below 24 pixels are too small for the published CIFAR networks, and start from random weights.
    """
    side = survey.side
    if side > SMALL_SIDE:
        size = next((size for size in reversed(SIZES) if size >= side), SIZES[0])
        return [
            StartNetwork("resnet18", "resnet18.tv_in1k", size),
            StartNetwork("resnet50", "resnet50.tv2_in1k", size),
        ]
    return [StartNetwork("resnet20", "resnet20.akamaster_cifar10" if side >= 24 else None, small_size(survey))]


def small_size(survey: ImageSurvey) -> int:
    """Return the side of a CIFAR network's input in pixels: the images' own if it is small, else 32 or 64."""
    if survey.native_side is not None and survey.native_side <= SMALL_SIDE:
        return survey.native_side
    return 32 if survey.side <= 48 else 64


def recipe_for(num_train: int, *, is_pretrained: bool, steps_given: bool = False) -> tuple[str, dict[str, Any]]:
    """Return the name of a recipe and the fields that depend on the number of training images.

    The learning rate of `scratch` is proportional to the batch; that of `finetune` grows with its square root.
    """
    if not is_pretrained and num_train > IMAGENET_IMAGES:
        return "imagenet-90", {}
    table = FINETUNE_EPOCHS if is_pretrained else SCRATCH_EPOCHS
    fields: dict[str, Any] = {} if steps_given else {"epochs": _by_number(table, num_train)}
    if is_pretrained:
        large = num_train > FINETUNE_EPOCHS[1][0]
        fields |= {"batch_size": 64, "lr": 0.06} if large else {"batch_size": 16}
    else:
        fields["batch_size"] = 32 if num_train <= SCRATCH_EPOCHS[0][0] else 128
    fields["batch_size"] = max(2, min(fields["batch_size"], num_train))
    return ("finetune" if is_pretrained else "scratch"), fields


def fit_length(times: ImageTimes, work: Work, sizes: Sequence[int], *, minutes: float | None = None) -> Length:
    """Return the largest images and the most epochs that a time allows.

    Without `minutes` the usual epochs, or fewer, within an hour; if even half of them take longer on the smallest
    images, half of them: the caller warns. With `minutes`, up to three times the usual epochs, or less than one.

    Args:
        times: Measured at one of the sizes, or near them.
        work: Images and usual epochs.
        sizes: Sides of the network's input to select from, descending.
        minutes: The time that the user has.
    """
    limit_s = LIMIT_S if minutes is None else MARGIN * 60 * minutes
    wanted = work.epochs if minutes is None else MAX_FACTOR * work.epochs
    least = max(1, round(MIN_SHARE * work.epochs))
    for size in sizes:
        at_size = times.at(size)
        epochs = _epochs_within(at_size, work, limit_s)
        if epochs >= least:
            epochs = min(wanted, int(epochs))
            return Length(size, epochs, None, at_size.total_s(work, epochs))
    smallest = times.at(sizes[-1])
    if minutes is None:
        return Length(sizes[-1], least, None, smallest.total_s(work, least))
    epochs = _epochs_within(smallest, work, limit_s)
    if epochs >= 1:
        return Length(sizes[-1], int(epochs), None, smallest.total_s(work, int(epochs)))
    epoch_steps = max(1, work.num_train // work.batch_size)
    steps = max(1, int(epochs * epoch_steps))
    return Length(sizes[-1], None, steps, smallest.total_s(work, steps / epoch_steps))


def _epochs_within(times: ImageTimes, work: Work, limit_s: float) -> float:
    """Return how many epochs fit into a time; a part of one, below 1, ends with a validation too."""
    final_s, one_s = times.total_s(work, 0), times.total_s(work, 1)
    if one_s <= limit_s:
        return (limit_s - final_s) / (one_s - final_s)
    val_s = times.total_s(work, 1e-9) - final_s
    return max(0.0, (limit_s - final_s - val_s) / (one_s - final_s - val_s))


def _by_number(table: Sequence[tuple[float, int]], number: int) -> int:
    return next(value for most, value in table if number <= most)
