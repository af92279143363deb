"""How a network is judged on a split: the single view, ten crops, several scales, several networks.

Each protocol yields, batch by batch and every sample once, positions in the split, labels, and the logarithm of each
class's probability. Where a protocol looks more than once, probabilities are averaged, as in reference [21].

A network is a module of PyTorch's, which takes normalised images, or an `Engine`, which takes pixels and normalises
them itself; both are shown the same pixels.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from resnetlab.config import ConfigError, Preprocessing
from resnetlab.data.dataset import Split
from resnetlab.data.images.encoded import EncodedImages
from resnetlab.data.loader import eval_batches_with_positions, thread_pool
from resnetlab.evaluation.crops import normalise_images, resize_shorter_side, ten_crops, uncropped_images
from resnetlab.evaluation.predictions import NOTHING, Predictions, merge_predictions
from resnetlab.inference.engines.base import Engine
from resnetlab.system.process_group import ProcessGroup

PIXELS = 64 * 224 * 224
"""Pixels that go through a network together, at most: 64 images of 224x224."""
GATHER = 64
"""Pictures looked at together, to find those of one shape."""
TOP = 5

Network = nn.Module | Engine
Scores = Iterator[tuple[Tensor, Tensor, Tensor]]
"""Positions int64 (batch,), labels int64 (batch,), log-probabilities float64 (batch, num_classes); on the CPU."""


@dataclass(frozen=True)
class SplitScore:
    """What one pass over a split counted: every sample exactly once."""

    num_samples: int
    num_wrong: int
    loss: float
    """Mean cross entropy, in nats."""

    @property
    def error_pct(self) -> float:
        """Share of samples whose most probable class is not the label (top-1 error), in %."""
        return 100 * self.num_wrong / self.num_samples


def score_split(
    model: nn.Module,
    split: Split,
    preprocessing: Preprocessing,
    *,
    workers: int = 0,
    world: ProcessGroup = ProcessGroup(),  # noqa: B008
) -> SplitScore:
    """Judge a network on the original images of a split, in evaluation mode; the mode it was in comes back.

    Always in fp32, whatever the training computed in: it is how the model file will be used. `workers` threads decode
    images that are not resident. Several processes share the samples, and each is told of all.

    Raises:
        ConfigError: where there is not one image to judge on.
    """
    samples = torch.arange(len(split))[world.rank :: world.size]
    own = split if world.size == 1 else split.some(samples)
    found = collect_predictions(one_crop(model, own, preprocessing, workers=workers), len(own))
    judged = merge_predictions(world.gather(replace(found, positions=samples.numpy()[found.positions])))
    wrong = (judged.top[:, 0] != judged.labels) | np.isnan(judged.confidence)
    return SplitScore(len(judged), int(wrong.sum()), float(judged.loss.mean()))


def collect_predictions(scores: Scores, num_samples: int) -> Predictions:
    """Note of each sample what the evaluation needs: its label, the likeliest classes, and how likely they were.

    At most `num_samples` may come. Each is written into a place of its own in arrays that are there from the start:
    small ones kept from every batch would pin down the memory of the large ones between them, 0.7 MiB a batch.
    Where there is not one sample, it is `NOTHING`. Of classes that are equally likely the first comes first.
    """
    found: Predictions | None = None
    done = 0
    for positions, labels, logs in scores:
        if not len(positions):
            continue
        classes = min(TOP, logs.shape[1])
        if found is None:
            found = _room(num_samples, classes)
        ranked = logs.sort(dim=1, descending=True, stable=True)
        at = slice(done, done + len(positions))
        found.positions[at], found.labels[at] = positions, labels
        found.top[at] = ranked.indices[:, :classes]
        found.confidence[at] = ranked.values[:, 0].exp()
        found.loss[at] = -logs.gather(1, labels[:, None])[:, 0]
        done = at.stop
    return merge_predictions([found.first(done)]) if found else NOTHING


def _room(num_samples: int, classes: int) -> Predictions:
    """Return a judgement to be written into."""
    positions, labels = np.zeros(num_samples, np.int64), np.zeros(num_samples, np.int64)
    top = np.zeros((num_samples, classes), np.int64)
    return Predictions(positions, labels, top, np.zeros(num_samples), np.zeros(num_samples))


def one_crop(network: Network, split: Split, preprocessing: Preprocessing, *, workers: int = 0) -> Scores:
    """Look once at the centre of each image, as the preprocessing says (section 4.2: the single original view)."""
    with _judging(network):
        for positions, images, labels in eval_batches_with_positions(
            split, _outside(network, preprocessing), workers=workers
        ):
            yield positions.cpu(), labels.cpu(), _log_probabilities(network, images)


def ten_crop(
    network: Network,
    images: Tensor | EncodedImages,
    labels: Tensor,
    preprocessing: Preprocessing,
    shorter: int,
    *,
    workers: int = 0,
) -> Scores:
    """Average over the four corners and the centre, mirrored too, of images resized to a shorter side in pixels.

    Paper: section 3.4 and Tables 2 and 3.

    Raises:
        ConfigError: where the shorter side is less than that of a crop.
    """
    size = preprocessing.image_size
    if shorter < size:
        raise ConfigError(f"crops of {size} pixels cannot be cut from a shorter side of {shorter}; use {size} or more")
    batch_size = max(1, min(GATHER, PIXELS // (10 * size * size)))
    with _judging(network), thread_pool(workers) as pool:
        for positions, pictures in uncropped_images(images, batch_size, 2 * shorter, pool):
            crops = [ten_crops(resize_shorter_side(picture, shorter), size) for picture in pictures]
            logs = _log_probabilities(
                network, normalise_images(np.concatenate(crops), _outside(network, preprocessing))
            )
            yield positions, labels[positions], _mean(logs.view(len(pictures), 10, -1), dim=1)


def multi_scale(
    model: nn.Module,
    images: Tensor | EncodedImages,
    labels: Tensor,
    preprocessing: Preprocessing,
    sides: Sequence[int],
    *,
    workers: int = 0,
) -> Scores:
    """Average over images shown whole, at several shorter sides in pixels: the network is fully convolutional.

    The head is linear and reads an average, so that the average of class scores over all places of a larger map is what
    the network gives of that map. Paper: section 3.4 and Table 4.

    Raises:
        ConfigError: where a side is below 1.
    """
    if min(sides, default=0) < 1:
        raise ConfigError(f"shorter sides must be at least 1 pixel each, not {', '.join(map(str, sides)) or 'none'}")
    with _judging(model), thread_pool(workers) as pool:
        for positions, pictures in uncropped_images(images, GATHER, 2 * max(sides), pool):
            by_side = [
                _whole(model, [resize_shorter_side(one, side) for one in pictures], preprocessing) for side in sides
            ]
            yield positions, labels[positions], _mean(torch.stack(by_side), dim=0)


def ensemble(members: Sequence[Callable[[], Scores]], num_samples: int) -> Scores:
    """Average the probabilities of several networks, which look at the same samples; one network alone stays itself.

    A sample that one of them could not decode is left out. Paper: section 4.1, Table 5.
    """
    if len(members) == 1:
        yield from members[0]()
        return
    total, labels = torch.empty(0), torch.zeros(num_samples, dtype=torch.int64)
    seen = torch.zeros(num_samples, dtype=torch.int64)
    for member in members:
        for positions, its, logs in member():
            if not len(total):
                total = torch.zeros(num_samples, logs.shape[1], dtype=torch.float64)
            total[positions] += logs.exp()
            labels[positions] = its
            seen[positions] += 1
    for positions in torch.nonzero(seen == len(members)).flatten().split(GATHER):
        yield positions, labels[positions], (total[positions] / len(members)).log()


def _whole(model: nn.Module, pictures: Sequence[np.ndarray], preprocessing: Preprocessing) -> Tensor:
    """Return the log-probabilities of whole pictures, those of one shape together, in their order."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for at, picture in enumerate(pictures):
        by_shape.setdefault(picture.shape[:2], []).append(at)
    rows: list[Tensor] = [torch.empty(0)] * len(pictures)
    for (height, width), places in by_shape.items():
        together = max(1, PIXELS // (height * width))
        for some in (places[start : start + together] for start in range(0, len(places), together)):
            logs = _log_probabilities(model, normalise_images(np.stack([pictures[at] for at in some]), preprocessing))
            for at, row in zip(some, logs, strict=True):
                rows[at] = row
    return torch.stack(rows)


@torch.no_grad()
def _log_probabilities(network: Network, images: Tensor) -> Tensor:
    """Return the logarithm of each class's probability, float64: it ranks classes as the logits do."""
    if isinstance(network, nn.Module):
        device = next((parameter.device for parameter in network.parameters()), images.device)
        images = images.to(device).contiguous(memory_format=torch.channels_last)
        return network(images).double().cpu().log_softmax(1)
    together = max(1, PIXELS // (images.shape[2] * images.shape[3]))
    views = images.permute(0, 2, 3, 1).contiguous().cpu().split(together)
    return torch.cat([torch.from_numpy(network.logits(some.numpy())) for some in views]).double().log_softmax(1)


def _outside(network: Network, preprocessing: Preprocessing) -> Preprocessing | None:
    """Return what is done to pixels before a network gets them: nothing for one that normalises them itself."""
    return preprocessing if isinstance(network, nn.Module) else None


def _mean(logs: Tensor, dim: int) -> Tensor:
    return logs.exp().mean(dim).log()


@contextmanager
def _judging(network: Network) -> Iterator[None]:
    """Put a network into evaluation mode, which an engine always is in; the mode it was in comes back."""
    if not isinstance(network, nn.Module):
        yield
        return
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)
