"""`Predictor`: images in, class names and probabilities out, with the preprocessing of evaluation, on any runtime.

Longer than 300 lines because each public method documents the inputs that it takes and the errors that it raises.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from resnetlab.config import ConfigError, Preprocessing
from resnetlab.data.images.decode import BadImageError, decode_eval_view
from resnetlab.data.images.eval_view import EvalView
from resnetlab.data.images.resample import make_view
from resnetlab.inference.engines.base import Engine
from resnetlab.inference.engines.pytorch import TorchEngine
from resnetlab.inference.image_types import is_batch, to_pixels
from resnetlab.inference.open_engine import BackendOption, open_engine
from resnetlab.inference.prediction import Prediction, rank_classes
from resnetlab.inference.probe_images import check_file_channels, luma
from resnetlab.inference.rejection import check_reject_below
from resnetlab.models.model_card import ModelCard, ModelFileError
from resnetlab.models.resnet import ResNet

MAX_BATCH = 64
"""Largest batch that `Predictor.probabilities` passes to the network."""


class BrokenNetworkError(RuntimeError):
    """A network whose outputs are not finite, so that its predictions would mean nothing."""


class Predictor:
    """A network with its class names and preprocessing. Threads may share a predictor.

    An image is one of:

    - a path (`str` or `Path`), or the encoded file itself (`bytes`);
    - a PIL image;
    - a NumPy array (height, width, 3), (height, width, 1) or (height, width);
    - a tensor (3, height, width), (1, height, width) or (height, width);
    - for a network of another number of channels, only an array or tensor of that number.

    Arrays and tensors are uint8, 0 to 255, or floats, 0 to 1, which are rounded to 8 bits. A list or tuple of images,
    or an array or tensor with a further first dimension, is a batch.

    Preprocessing is that of evaluation, to the last bit. For a grey network, colours are converted to brightness
    (BT.601); for a colour network, grey is repeated in three channels.
    """

    def __init__(
        self,
        model: ResNet | Engine,
        card: ModelCard,
        *,
        max_pixels: int = 100_000_000,
        reject_below: float | None = None,
    ) -> None:
        """Create a predictor.

        Args:
            model: A network, which is put into evaluation mode, or an inference engine.
            card: The card of its model file, with class names and preprocessing.
            max_pixels: Images that claim more pixels are rejected before they are decoded.
            reject_below: An image whose most probable class has a lower probability is answered `unknown`; above
                1 / number of classes and below 1. `None` answers every image with a class.

        Raises:
            ValueError: The network contradicts its preprocessing or class names, or `reject_below` is out of range or
                given for a network whose images may have several labels.
        """
        channels, num_names = card.model.in_channels, len(card.classes)
        if channels != len(card.preprocessing.mean):
            raise ValueError(
                f"{card.model.name} has {channels} input channels, its preprocessing {len(card.preprocessing.mean)}"
            )
        if num_names != card.model.num_classes:
            raise ValueError(f"{card.model.name} has {card.model.num_classes} outputs and {num_names} class names")
        self.engine: Engine = TorchEngine(model, card.preprocessing) if isinstance(model, ResNet) else model
        if reject_below is not None and card.multi_label is not None:
            raise ConfigError(f"{card.model.name} has a threshold for each label; leave out reject-below")
        check_reject_below(reject_below, num_names)
        self.card = card
        self.max_pixels = max_pixels
        self.reject_below = reject_below

    @property
    def model(self) -> ResNet:
        """The PyTorch network.

        Raises:
            AttributeError: Another runtime computes the network.
        """
        if isinstance(self.engine, TorchEngine):
            return self.engine.network
        raise AttributeError(f"the backend {self.engine.backend} computes a graph and has no PyTorch network")

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of the network's outputs."""
        return self.card.classes

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing that the model file records."""
        return self.card.preprocessing

    def __repr__(self) -> str:
        height, width = self.preprocessing.input_size
        return f"Predictor({self.card.model.name}, {len(self.classes)} classes, {height} x {width} pixels)"

    @overload
    def __call__(self, images: str | Path | bytes | Image.Image, top: int = 5) -> Prediction: ...
    @overload
    def __call__(self, images: list | tuple, top: int = 5) -> list[Prediction]: ...
    @overload
    def __call__(self, images: np.ndarray | Tensor, top: int = 5) -> Any: ...
    def __call__(self, images: Any, top: int = 5) -> Prediction | list[Prediction]:
        """Predict the classes of one image or of a batch.

        Args:
            images: An image or a batch; see the class for the supported types.
            top: Number of classes in `Prediction.top`, at least 1. All classes if there are fewer.

        Returns:
            A `Prediction` for one image; a list of them, in order, for a batch.

        Raises:
            ValueError: An image cannot be decoded, or its shape or value range is not supported; or `top` is below 1.
            TypeError: The input is not an image, or its dtype is not supported.
            OSError: A file cannot be read.
            BrokenNetworkError: The probabilities are not finite.
        """
        if top < 1:
            raise ValueError(f"top must be at least 1, not {top}")
        predictions = self.rank_classes(self.probabilities(images), top)
        return predictions if is_batch(images) else predictions[0]

    def probabilities(self, images: Any) -> np.ndarray:
        """Return the probabilities of one image or of a batch, as `probabilities_of` does.

        Args:
            images: As in a call of the predictor. It is processed in batches of up to 64 images.

        Returns:
            float64 (num_images, num_classes). A single image gives one row.

        Raises:
            ValueError, TypeError, OSError, BrokenNetworkError: As in a call of the predictor.
        """
        rows = [self.predict_probabilities(views) for views in self._views(images)]
        return np.concatenate([np.empty((0, len(self.classes))), *rows])

    def embed(self, images: Any) -> np.ndarray:
        """Return the features of one image or of a batch: the input of the network's head.

        Images that resemble each other have features of a large cosine similarity.

        Args:
            images: As in a call of the predictor. It is processed in batches of up to 64 images.

        Returns:
            float32 (num_images, channels), with the channels of the last stage. A single image gives one row.

        Raises:
            ValueError, TypeError, OSError, BrokenNetworkError: As in a call of the predictor.
            ConfigError: ONNX Runtime computes the network and the package onnx is not installed.
        """
        from resnetlab.inference.embedding import embed_views, num_features

        rows = [embed_views(self, views)[0] for views in self._views(images)]
        return np.concatenate([np.empty((0, num_features(self.card)), np.float32), *rows])

    def preprocess(self, image: Any) -> np.ndarray:
        """Return the resized and cropped view of one image, before normalisation.

        Args:
            image: One image, as in a call of the predictor.

        Returns:
            uint8 (height, width, channels), 0 to 255. The engine normalises it.

        Raises:
            ValueError, TypeError, OSError: As in a call of the predictor.
        """
        view, channels = EvalView.of(self.preprocessing), self.card.model.in_channels
        if isinstance(image, str | Path):
            check_file_channels(channels)
            try:
                pixels = decode_eval_view(Path(image).read_bytes(), view, max_pixels=self.max_pixels)
            except BadImageError as error:
                raise BadImageError(f"{image}: {error}") from error
        elif isinstance(image, bytes | bytearray | memoryview):
            check_file_channels(channels)
            pixels = decode_eval_view(bytes(image), view, max_pixels=self.max_pixels)
        else:
            pixels = make_view(to_pixels(image, view.color_profiles, channels=channels), view)
        return luma(pixels) if channels == 1 else pixels

    def predict_probabilities(self, views: np.ndarray) -> np.ndarray:
        """Return the probabilities of a batch that `preprocess` made, as `probabilities_of` does.

        Args:
            views: uint8 (batch, height, width, channels), 0 to 255.

        Returns:
            float64 (batch, num_classes).

        Raises:
            BrokenNetworkError: The probabilities are not finite.
        """
        return self.probabilities_of(self.engine.logits(views))

    def probabilities_of(self, logits: np.ndarray) -> np.ndarray:
        """Return the softmax of logits over the card's temperature, or the sigmoid of each label's logit.

        Args:
            logits: float32 (batch, num_classes).

        Returns:
            float64 (batch, num_classes). Where an image may have several labels, a row does not add up to 1.

        Raises:
            BrokenNetworkError: The probabilities are not finite.

        Paper: Guo et al., 2017, equation 9.
        """
        scaled = torch.from_numpy(logits).double() / self.card.temperature
        probabilities = (scaled.softmax(1) if self.card.multi_label is None else scaled.sigmoid()).numpy()
        if not np.isfinite(probabilities).all():
            raise BrokenNetworkError(
                f"{self.card.model.name} gives probabilities that are not finite: its weights are broken "
                "(did the training diverge?)"
            )
        return probabilities

    def rank_classes(self, probabilities: np.ndarray, top: int = 5) -> list[Prediction]:
        """Return the `top` most probable classes of each row.

        Args:
            probabilities: (batch, num_classes).
            top: Number of classes, at least 1.
        """
        thresholds = None if self.card.multi_label is None else self.card.multi_label.thresholds
        return [
            rank_classes(row, self.classes, top=top, reject_below=self.reject_below, thresholds=thresholds)
            for row in probabilities
        ]

    def _views(self, images: Any) -> Iterator[np.ndarray]:
        """Yield the views of one image or of a batch, up to `MAX_BATCH` at a time."""
        items = list(images) if is_batch(images) else [images]
        for start in range(0, len(items), MAX_BATCH):
            indices = range(start, min(start + MAX_BATCH, len(items)))
            yield np.stack([self._preprocess(items[at], at if is_batch(images) else None) for at in indices])

    def _preprocess(self, image: Any, index: int | None) -> np.ndarray:
        """Preprocess one image. An error names its `index` in the batch, if there is one."""
        try:
            return self.preprocess(image)
        except (TypeError, ValueError) as error:
            if index is None or isinstance(image, str | Path):
                raise
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"image {index} of the batch: {error}") from error


def load(
    path: str | Path,
    *,
    backend: BackendOption | None = None,
    cores: int | None = None,
    callers: int = 1,
    device: str | torch.device = "cpu",
    reject_below: float | None = None,
    log: Callable[[str], None] | None = None,
) -> Predictor:
    """Load a predictor from a model file, a run directory, an exported file or published weights.

    Args:
        path: The file or directory; or a name such as `resnet50.tv2_in1k` (`list_weights`), or `hf://owner/name`.
        backend: `torch`, `onnxruntime` or `openvino`. The default is PyTorch for a model file, and for an exported file
            the first installed runtime that reads it (ONNX: ONNX Runtime, then OpenVINO). `auto` measures once
            which runtime with the same predictions is the fastest on this machine, and stores the result beside the
            file. `cached` uses that result, or else the default.
        cores: Threads for one batch. The default is PyTorch's own number; for the other runtimes, the usable cores
            divided by `callers`. For PyTorch this sets the number of threads of the whole process.
        callers: Threads that will share the predictor.
        device: PyTorch's device. The other runtimes run on the CPU.
        reject_below: As for `Predictor`.
        log: Receives one line with the result of `auto`.

    Raises:
        ModelFileError: A file is missing, damaged, or not written by resnetlab. It is a `ValueError`.
        ConfigError: The backend cannot run this file here; the message names the backends that can. Or `reject_below`
            is out of range.
        DownloadError: Published weights are not on this machine and cannot be downloaded.
    """
    engine, card = open_engine(path, backend=backend, cores=cores, callers=callers, device=device, log=log)
    try:
        return Predictor(engine, card, reject_below=reject_below)
    except ConfigError:
        raise
    except ValueError as error:
        raise ModelFileError(f"{path}: {error}") from error
