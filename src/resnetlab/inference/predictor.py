"""Pictures in, named classes out: a network and its own preprocessing, as evaluation applies it, on any runtime."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from resnetlab.config import Preprocessing
from resnetlab.data.images.color_modes import is_negative, to_rgb
from resnetlab.data.images.decode import BadImageError, decode_eval_view, resize_center_crop
from resnetlab.inference.engines.base import Engine
from resnetlab.inference.engines.pytorch import TorchEngine
from resnetlab.inference.open_engine import Wish, open_engine
from resnetlab.inference.probe_images import luma
from resnetlab.models.model_card import ModelCard, ModelFileError
from resnetlab.models.resnet import ResNet

BATCH = 64
"""Images that go through the network together, at most."""
TAKEN = (
    "a path, encoded bytes, a PIL image, a NumPy array (height, width, 3), a tensor (channels, height, width), or a "
    "list of these"
)


class BrokenNetworkError(RuntimeError):
    """A network whose outputs are not finite numbers; its answers would mean nothing."""


@dataclass(frozen=True)
class Prediction:
    """What a network says of one picture."""

    label: str
    """The most probable class; of equally probable ones the first."""
    probability: float
    """Of that class, 0 to 1."""
    top: tuple[tuple[str, float], ...]
    """Classes and their probabilities, the most probable first."""

    def __str__(self) -> str:
        return ", ".join(f"{name} {100 * probability:.1f} %" for name, probability in self.top)

    def __repr__(self) -> str:
        top = ", ".join(f"({name!r}, {probability:.4f})" for name, probability in self.top)
        return f"Prediction({self.label!r}, {self.probability:.4f}, top=({top}{',' if len(self.top) == 1 else ''}))"


class Predictor:
    """A network with its classes and preprocessing, ready for pictures; threads may share it.

    A picture is a path (`str` or `Path`), an encoded image (`bytes`), a PIL image, a NumPy array of shape (height,
    width, 3), (height, width, 1) or (height, width), or a tensor of shape (3, height, width), (1, height, width) or
    (height, width). Arrays and tensors are uint8, 0 to 255, or floats 0 to 1, which are rounded to 8 bits. A list or
    tuple of pictures, or an array or tensor with one dimension more in front, is a batch.

    A file is seen exactly as evaluation sees it. A grey network sees of colours what the eye takes for brightness
    (BT.601), a colour network three equal channels of grey.
    """

    def __init__(self, network: ResNet | Engine, card: ModelCard, *, max_pixels: int = 100_000_000) -> None:
        """Take a network, or an engine of one, and what its file says of it.

        Images that claim more than `max_pixels` are refused.

        Raises:
            ValueError: where the network reads neither colour nor grey images, or its parts do not fit each other.
        """
        channels, size = card.model.in_channels, len(card.classes)
        if channels not in (1, 3) or channels != len(card.preprocessing.mean):
            raise ValueError(
                f"{card.model.name} reads {channels} channels, its preprocessing {len(card.preprocessing.mean)}; "
                "pictures have 3, or 1 where they are grey"
            )
        if size != card.model.num_classes:
            raise ValueError(f"{card.model.name} has {card.model.num_classes} outputs, and {size} classes have names")
        self.engine: Engine = TorchEngine(network, card.preprocessing) if isinstance(network, ResNet) else network
        self.card = card
        self.max_pixels = max_pixels

    @property
    def model(self) -> ResNet:
        """The network itself, where PyTorch computes it.

        Raises:
            AttributeError: on another runtime, which has none.
        """
        if isinstance(self.engine, TorchEngine):
            return self.engine.network
        raise AttributeError(f"{self.engine.backend} computes a graph, and has no network of PyTorch's")

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the network's outputs."""
        return self.card.classes

    @property
    def preprocessing(self) -> Preprocessing:
        """What the model file says of how it sees pictures."""
        return self.card.preprocessing

    def __repr__(self) -> str:
        size = self.preprocessing.image_size
        return f"Predictor({self.card.model.name}, {len(self.classes)} classes, {size} x {size} pixels)"

    @overload
    def __call__(self, images: str | Path | bytes | Image.Image, top: int = 5) -> Prediction: ...
    @overload
    def __call__(self, images: list | tuple, top: int = 5) -> list[Prediction]: ...
    @overload
    def __call__(self, images: np.ndarray | Tensor, top: int = 5) -> Any: ...
    def __call__(self, images: Any, top: int = 5) -> Prediction | list[Prediction]:
        """Return the `Prediction` of a picture, or a list of them, in order, for a batch.

        `top` classes are named, at least 1; all where there are fewer.

        Raises:
            ValueError: for a picture that cannot be decoded, or pixels of another shape or range.
            TypeError: for what is no picture.
            OSError: where a file cannot be read.
            BrokenNetworkError: where probabilities are not finite.
        """
        if top < 1:
            raise ValueError(f"top must be at least 1, not {top}")
        rows = self.named(self.probabilities(images), top)
        return rows if is_batch(images) else rows[0]

    def probabilities(self, images: Any) -> np.ndarray:
        """Return the probability of each class: float64 (num_images, num_classes); a single picture is one row.

        Raises:
            As a call of the predictor does.
        """
        pictures = list(images) if is_batch(images) else [images]
        rows = [np.empty((0, len(self.classes)))]
        for start in range(0, len(pictures), BATCH):
            some = pictures[start : start + BATCH]
            views = [self._view(one, start + at if is_batch(images) else None) for at, one in enumerate(some)]
            rows.append(self.judge(np.stack(views)))
        return np.concatenate(rows)

    def view(self, image: Any) -> np.ndarray:
        """Return what the network sees of one picture: uint8 (image_size, image_size, 3 or 1).

        Raises:
            ValueError, TypeError, OSError: as a call does.
        """
        size, ratio = self.preprocessing.image_size, self.preprocessing.crop_ratio
        if isinstance(image, str | Path):
            try:
                seen = decode_eval_view(Path(image).read_bytes(), size, ratio, self.max_pixels)
            except BadImageError as error:
                raise BadImageError(f"{image}: {error}") from error
        elif isinstance(image, bytes | bytearray | memoryview):
            seen = decode_eval_view(bytes(image), size, ratio, self.max_pixels)
        else:
            seen = resize_center_crop(_pixels(image), size, ratio)
        return luma(seen) if self.card.model.in_channels == 1 else seen

    def judge(self, views: np.ndarray) -> np.ndarray:
        """Return the probability of each class for a batch of `decode_eval_view`s: float64 (num_images, num_classes).

        Raises:
            BrokenNetworkError: where they are not finite.
        """
        probabilities = torch.from_numpy(self.engine.logits(views)).double().softmax(1).numpy()
        if not np.isfinite(probabilities).all():
            raise BrokenNetworkError(
                f"{self.card.model.name} gives probabilities that are not finite: its weights are broken "
                "(did the training diverge?)"
            )
        return probabilities

    def named(self, probabilities: np.ndarray, top: int) -> list[Prediction]:
        """Name the most probable classes of each row, `top` of them."""
        return [_named(row, self.classes, top) for row in probabilities]

    def _view(self, image: Any, at: int | None) -> np.ndarray:
        """Return the view of one picture, `at` which place of a batch, if of one."""
        try:
            return self.view(image)
        except (TypeError, ValueError) as error:
            if at is None or isinstance(image, str | Path):
                raise
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"image {at} of the batch: {error}") from error


def load(
    path: str | Path,
    *,
    backend: Wish | None = None,
    cores: int | None = None,
    callers: int = 1,
    device: str | torch.device = "cpu",
    tell: Callable[[str], None] | None = None,
) -> Predictor:
    """Make a predictor of a model file, of the one in a run directory, or of an exported file.

    Args:
        path: The file or directory.
        backend: `torch`, `onnxruntime` or `openvino`; PyTorch for a model file if not given, and for an exported file
            what reads it. `auto` measures once which is the fastest here that gives the same answers.
        cores: Threads that work on one batch; if not given, PyTorch's own number, or a fair share of the cores for each
            caller. For PyTorch it is a setting of the process.
        callers: Threads that will share the predictor.
        device: Where PyTorch computes.
        tell: Hears what `auto` found, a line.

    Raises:
        ModelFileError: a `ValueError`, for a file that is missing, damaged, or nothing of this project.
        ConfigError: for a runtime that cannot compute it here; the message says which can.
    """
    engine, card = open_engine(path, backend=backend, cores=cores, callers=callers, device=device, tell=tell)
    try:
        return Predictor(engine, card)
    except ValueError as error:
        raise ModelFileError(f"{path}: {error}") from error


def is_batch(images: Any) -> bool:
    """Say whether this is meant as several pictures: a list, a tuple, or four dimensions."""
    return isinstance(images, list | tuple) or (isinstance(images, np.ndarray | Tensor) and images.ndim == 4)


def _named(probabilities: np.ndarray, classes: tuple[str, ...], top: int) -> Prediction:
    order = np.argsort(-probabilities, kind="stable")[:top]
    ranked = tuple((classes[at], float(probabilities[at])) for at in order)
    return Prediction(*ranked[0], ranked)


def _pixels(image: Any) -> np.ndarray:
    """Return the pixels of a PIL image, an array or a tensor: uint8 RGB (height, width, 3)."""
    if isinstance(image, Image.Image):
        if 0 in image.size:
            raise ValueError(f"a PIL image of {image.width} x {image.height} has no pixels")
        return to_rgb(ImageOps.exif_transpose(image), negative=is_negative(image))
    if isinstance(image, Tensor):
        values = image.detach().cpu()
        values = values.double() if values.is_floating_point() else values  # NumPy knows no bfloat16
        pixels = _checked(values.numpy(), "a tensor", "(channels, height, width)", channels_at=0)
    elif isinstance(image, np.ndarray):
        pixels = _checked(image, "an array", "(height, width, channels)", channels_at=-1)
    else:
        raise TypeError(f"no picture can be made of type {type(image).__name__}; give {TAKEN}")
    return np.require(np.broadcast_to(pixels, (*pixels.shape[:2], 3)), requirements=["C", "W"])  # PyTorch warns else


def _checked(pixels: np.ndarray, kind: str, layout: str, channels_at: int) -> np.ndarray:
    """Return pixels as uint8 (height, width, 1 or 3)."""
    shape = tuple(pixels.shape)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    elif pixels.ndim == 3:
        pixels = np.moveaxis(pixels, channels_at, -1)
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        turned = pixels.ndim == 3 and shape[-1 - channels_at] in (1, 3)
        hint = "; its channels stand at the wrong end" if turned else ""
        raise ValueError(f"{kind} of shape {shape} is no picture {layout} of 3 channels or 1{hint}")
    if pixels.size == 0:
        raise ValueError(f"{kind} of shape {shape} has no pixels")
    if pixels.dtype == np.uint8:
        return pixels
    if not np.issubdtype(pixels.dtype, np.floating):
        raise TypeError(f"pixels are uint8, 0 to 255, or floats 0 to 1, and not {pixels.dtype}")
    low, high = float(pixels.min()), float(pixels.max())
    if not 0 <= low <= high <= 1:  # NaN too
        raise ValueError(f"float pixels are 0 to 1, and these are {low:g} to {high:g}; divide by 255, or give uint8")
    return np.rint(pixels.astype(np.float64) * 255).astype(np.uint8)
