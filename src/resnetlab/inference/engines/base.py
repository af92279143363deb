"""What computes a network, whichever runtime does it: pixels in, logits out. No torch here."""

from typing import Literal, Protocol

import numpy as np

Backend = Literal["torch", "onnxruntime", "openvino"]
Precision = Literal["fp32", "bf16", "int8"]


class Engine(Protocol):
    """A network ready to compute, its normalisation inside; threads may share it."""

    @property
    def backend(self) -> Backend:
        """The runtime."""
        ...

    @property
    def precision(self) -> Precision:
        """What most of the arithmetic is done in."""
        ...

    def logits(self, views: np.ndarray) -> np.ndarray:
        """Return the logits, float32 (batch, num_classes), of uint8 images (batch, height, width, 3 or 1)."""
        ...

    def maps(self, views: np.ndarray) -> np.ndarray:
        """Return the map of the last stage, which the head averages: float32 (batch, channels, height, width)."""
        ...

    @property
    def head(self) -> np.ndarray:
        """The weights of the head: float32 (num_classes, channels); with `maps` they say where a class was seen."""
        ...
