"""Preprocessings that networks are commonly trained with, and how well each explains the first batch normalisation."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from resnetlab.config import ConfigError
from resnetlab.evaluation.self_check.bn_agreement import ChannelMoments, finite_mean, squared_hellinger
from resnetlab.evaluation.self_check.decision import CLEAR_RATIO, CLOSE_PREPROCESSING, best_by, decide
from resnetlab.evaluation.self_check.patch_moments import PatchMoments
from resnetlab.evaluation.self_check.training_views import ViewKind
from resnetlab.models.resnet import ResNet

FULL = 1 / 255
"""Deviation that leaves pixels at 0 to 255."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SAME = 0.02
"""Normalisations that differ by less than this share of a deviation count as one: no statistics separate them."""
ESTIMATE = 0.15
"""As far may the mean and deviation of some hundred images be from those of their data set."""
MEASURED = "of these images"


@dataclass(frozen=True)
class Normalisation:
    """A mean and a deviation for each channel of the images, in the order red, green, blue; for values from 0 to 1."""

    name: str
    """The source of the numbers, such as `ImageNet`."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """The deviation that divides the channels."""

    @property
    def is_measured(self) -> bool:
        """Whether these are the mean and deviation of the given images."""
        return self.name.startswith(MEASURED)

    @property
    def has_order(self) -> bool:
        """Whether the channels differ."""
        return len({*self.mean}) > 1 or len({*self.std}) > 1

    def reversed(self) -> "Normalisation":
        """Return the values in reverse order: what the blue channel gets if a mean for red comes first."""
        return Normalisation(f"{self.name}, in reverse order", self.mean[::-1], self.std[::-1])

    def is_same(self, other: "Normalisation", tolerance: float = SAME) -> bool:
        """Return whether means differ by less than a share of a deviation, and deviations by less than that share."""
        pairs = zip(self.mean, other.mean, self.std, other.std, strict=True)
        return all(abs(m - n) < tolerance * t and abs(s / t - 1) < tolerance for m, n, s, t in pairs)


# Sources: torchvision's reference (ImageNet; -1 to 1); kuangliu's pytorch-cifar (with deviations of an average over
# images, which many copied); chenyaofo's pytorch-cifar-models; weiaicunzai's pytorch-cifar100; OpenAI's CLIP; Caffe's
# models (mean subtracted from 0 to 255).
COLOUR_NORMALISATIONS = (
    Normalisation("ImageNet", IMAGENET_MEAN, IMAGENET_STD),
    Normalisation("CIFAR-10", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    Normalisation("CIFAR-10, deviation within images", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    Normalisation("CIFAR-100", (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    Normalisation("CLIP", (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    Normalisation("-1 to 1", (0.5,) * 3, (0.5,) * 3),
    Normalisation("0 to 1", (0.0,) * 3, (1.0,) * 3),
    Normalisation("0 to 1 minus ImageNet's mean", IMAGENET_MEAN, (1.0,) * 3),
    Normalisation("0 to 255", (0.0,) * 3, (FULL,) * 3),
    Normalisation("0 to 255 minus ImageNet's mean", IMAGENET_MEAN, (FULL,) * 3),
    Normalisation("-127.5 to 127.5", (0.5,) * 3, (FULL,) * 3),
)
GREY_NORMALISATIONS = (
    Normalisation("MNIST", (0.1307,), (0.3081,)),
    Normalisation("Fashion-MNIST", (0.2860,), (0.3530,)),
    Normalisation("-1 to 1", (0.5,), (0.5,)),
    Normalisation("0 to 1", (0.0,), (1.0,)),
    Normalisation("0 to 255", (0.0,), (FULL,)),
)


@dataclass(frozen=True)
class PreprocessingScore:
    """The distance of the first batch normalisation from its statistics under one preprocessing."""

    normalisation: Normalisation
    bgr: bool
    """Whether the network reads the channels in reverse order."""
    view: ViewKind
    """The way from an image to the input of the network."""
    score: float
    """Mean squared Hellinger distance of the channels, 0 to 1."""


def normalisation_candidates(given: Iterable[Normalisation], channels: int) -> list[Normalisation]:
    """Return the given normalisations and the common ones that differ from all before them."""
    common = {3: COLOUR_NORMALISATIONS, 1: GREY_NORMALISATIONS}.get(channels) or _scales(channels)
    candidates: list[Normalisation] = []
    for candidate in (*given, *common):
        if not any(candidate.is_same(other) for other in candidates):
            candidates.append(candidate)
    return candidates


def _scales(channels: int) -> tuple[Normalisation, ...]:
    """Return the normalisations that fit any number of channels."""
    values = {"-1 to 1": (0.5, 0.5), "0 to 1": (0.0, 1.0), "0 to 255": (0.0, FULL)}
    return tuple(Normalisation(name, (mean,) * channels, (std,) * channels) for name, (mean, std) in values.items())


def image_normalisation(pixels: torch.Tensor) -> Normalisation:
    """Return the mean and deviation of the channels of images, float of shape (batch, channels, height, width)."""
    std, mean = torch.std_mean(pixels.double(), (0, 2, 3))
    return Normalisation(MEASURED, tuple(mean.tolist()), tuple(max(s, 1e-3) for s in std.tolist()))


def first_layer(model: ResNet) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """Return the first convolution and its batch normalisation.

    Raises:
        ConfigError: if no batch normalisation follows.
    """
    conv, norm = next(iter(model.stem_layers.values()))
    if not isinstance(norm, nn.BatchNorm2d):
        raise ConfigError("the network has no batch normalisation, so its weights store no statistics to compare with")
    return conv, norm


def score_preprocessings(
    conv: nn.Conv2d,
    target: ChannelMoments,
    moments: Mapping[ViewKind, PatchMoments],
    candidates: Sequence[Normalisation],
) -> list[PreprocessingScore]:
    """Score each normalisation, channel order and view; the best comes first.

    A network that reads blue first may have been given the mean in either order.

    Args:
        conv: The first convolution.
        target: The statistics that its batch normalisation stored.
        moments: The patches of each view of the images.
        candidates: The normalisations to try.
    """
    pairs = [(candidate, False) for candidate in candidates]
    if conv.in_channels == 3:
        pairs += [(candidate, True) for candidate in candidates]
        pairs += [(candidate.reversed(), True) for candidate in candidates if candidate.has_order]
    scores = []
    for view, patches in moments.items():
        for candidate, bgr in pairs:
            seen = patches.conv_moments(conv, candidate.mean, candidate.std, bgr=bgr)
            score = finite_mean(squared_hellinger(seen, target))
            scores.append(PreprocessingScore(candidate, bgr, view, score))
    return sorted(scores, key=lambda item: item.score)


def decide_normalisation(scores: Sequence[PreprocessingScore]) -> Normalisation | None:
    """Return the normalisation that is clearly better than all others, or `None`.

    The mean and deviation of the given images are themselves a candidate: a network may have been trained with those of
    its data. As an estimate they fit better than they should, since they also cancel what is special to the sample.
    They are decided only if no common normalisation is near, and decide against a common one if they fit far better.
    """
    best = best_by([(item.normalisation, item.score) for item in scores])
    common = {value: score for value, score in best.items() if not value.is_measured}
    measured = next((value for value in best if value.is_measured), None)
    if measured is None or best[measured] * CLEAR_RATIO > min(common.values()):
        return decide(common, CLOSE_PREPROCESSING)
    if any(measured.is_same(value, ESTIMATE) for value in common):
        return None
    return decide(common | {measured: best[measured]}, CLOSE_PREPROCESSING)
