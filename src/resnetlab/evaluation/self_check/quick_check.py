"""A check of one batch: whether imported weights contradict the network and the preprocessing in their model file."""

import math
from dataclasses import replace

from torch import Tensor

from resnetlab.config import Preprocessing
from resnetlab.data.dataset import Split
from resnetlab.data.loader import sample_images
from resnetlab.data.transforms import normalise
from resnetlab.evaluation.self_check.bn_agreement import bn_input_moments, layer_distances, running_moments
from resnetlab.evaluation.self_check.decision import CLOSE_WIRING
from resnetlab.evaluation.self_check.patch_moments import PatchMoments
from resnetlab.evaluation.self_check.preprocessing_candidates import (
    Normalisation,
    first_layer,
    normalisation_candidates,
    score_preprocessings,
)
from resnetlab.evaluation.self_check.training_views import ViewKind, make_view
from resnetlab.evaluation.self_check.wirings import Wiring, build_wiring, wirings_of
from resnetlab.models.cost import cost
from resnetlab.models.model_card import ModelCard
from resnetlab.models.resnet import ResNet

NUM_PIXELS = 256 * 32 * 32
"""Pixels of the first layer's check: 256 CIFAR images."""
MACS = 2e10
"""Multiply-adds of the check of wirings: less than a second on two cores."""
MIN_IMAGES, MAX_IMAGES = 4, 256
PREPROCESSING_RATIO = 8.0
"""Another preprocessing must be so many times closer. Images of other kinds reached 3.7 (docs/log.md)."""
CLOSE_ENOUGH = 0.02
"""Distance at which another preprocessing explains the first layer, also for images of a related kind."""
WIRING_RATIO = 4.0
"""Another wiring must be so many times closer; for no kind of images a wrong one was closer at all."""
FAR_WIRING = 0.01
"""Distance below which a wiring is not doubted."""
VIEWS: dict[str, tuple[ViewKind, ...]] = {"cifar": ("whole", "black border", "mean border")}
ENLARGED: tuple[ViewKind, ...] = ("whole", "resized crops")


def contradiction(model: ResNet, card: ModelCard, split: Split, *, workers: int = 0) -> str | None:
    """Return in one line what the statistics of imported weights contradict, or `None`.

    Networks that resnetlab trained are not checked: their files hold what they were trained with. The images may be of
    another kind than those of the training, so only a great difference counts: another assumption must agree with them,
    and many times better than the file's. This finds a plain network that was read as residual and the reverse, wrong
    zero channels and another pixel scale; often another mean or channel order where the images resemble those of the
    training; and the other stride of bottlenecks only where it changes the statistics much.

    Raises:
        BadImageError: as `sample_images`.
    """
    if "converted_from" not in card.provenance or card.model.norm != "batch" or len(split) < MIN_IMAGES:
        return None
    size = card.preprocessing.image_size
    count = max(MIN_IMAGES, min(MAX_IMAGES, NUM_PIXELS // math.prod(card.preprocessing.input_size)))
    raw = replace(card.preprocessing, mean=(0.0,) * card.model.in_channels, std=(1.0,) * card.model.in_channels)
    images, _ = sample_images(split, replace(raw, pixel_mean=()), count, workers=workers)  # pixels from 0 to 1
    pixels = images.float().cpu()
    network = build_wiring(card.model, model.state_dict(), own_wiring(card))  # a copy on the CPU, in float32
    found = None
    if not card.preprocessing.pixel_mean and card.preprocessing.image_width in (None, size):
        found = _better_preprocessing(network, card.preprocessing, pixels)
    return found or _better_wiring(network, card, pixels)


def own_wiring(card: ModelCard) -> Wiring:
    """Return the wiring of a model file."""
    config = card.model
    subsampling = "average" if config.average_shortcut else "stride"
    return Wiring(config.shortcut, "append", config.bottleneck_stride, subsampling)


def _better_preprocessing(model: ResNet, own: Preprocessing, pixels: Tensor) -> str | None:
    """Return a line on the preprocessing that agrees far better than the file's."""
    conv, norm = first_layer(model)
    images = list((pixels * 255).round().byte())
    kinds = VIEWS.get(model.config.stem, ENLARGED)
    moments: dict[ViewKind, PatchMoments] = {
        kind: PatchMoments.of(make_view(images, kind, own.image_size, 1.0), conv) for kind in kinds
    }
    given = Normalisation("as in the file", own.mean, own.std)
    scores = score_preprocessings(
        conv, running_moments(norm), moments, normalisation_candidates([given], conv.in_channels)
    )
    best, mine = scores[0], next(item.score for item in scores if item.normalisation == given and not item.bgr)
    if best.score > CLOSE_ENOUGH or mine < PREPROCESSING_RATIO * best.score:
        return None
    order = " with channels BGR" if best.bgr else ""
    return (
        f"the first layer's statistics disagree with the file's mean and deviation (distance {mine:.4f}) and agree "
        f"with {best.normalisation.name}{order} ({best.score:.4f})"
    )


def _better_wiring(model: ResNet, card: ModelCard, pixels: Tensor) -> str | None:
    """Return a line on the wiring that agrees far better than the file's."""
    own = own_wiring(card)
    others = [
        w for w in wirings_of(card.model) if w != own and (w.subsampling, w.stem_pool) == (own.subsampling, "max")
    ]
    if card.model.shortcut in ("pad", "none"):
        others = [w for w in wirings_of(card.model) if w != own and w.subsampling == "stride" and w.stem_pool == "max"]
    if not others:
        return None
    macs = cost(model, image_size=card.preprocessing.image_size).macs * (len(others) + 1)
    images = pixels[: max(MIN_IMAGES, int(MACS / macs))]
    inputs = normalise(images, card.preprocessing)
    mine = _distance(model, inputs)
    if mine < FAR_WIRING:
        return None
    state = model.state_dict()
    scores = {wiring: _distance(build_wiring(card.model, state, wiring), inputs) for wiring in others}
    best = min(scores, key=lambda item: scores[item])
    if scores[best] > CLOSE_WIRING or mine < WIRING_RATIO * scores[best]:
        return None
    return (
        f"the statistics of its layers disagree with {describe(own)} (distance {mine:.4f}) and agree with "
        f"{describe(best)} ({scores[best]:.4f})"
    )


def describe(wiring: Wiring) -> str:
    """Return a wiring in words."""
    if wiring.shortcut == "none":
        return "a plain network"
    if wiring.shortcut == "pad":
        return f"a residual network (option A, zero channels {wiring.zero_channels})"
    return f"the stride of bottlenecks in the {wiring.bottleneck_stride}"


def _distance(model: ResNet, inputs: Tensor) -> float:
    """Return the mean distance of the layers behind the first."""
    distances = list(layer_distances(model, bn_input_moments(model, [inputs])).values())[1:]
    return sum(distances) / max(1, len(distances))
