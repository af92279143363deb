"""The interface of an inference engine: uint8 images in, float32 logits out."""

from typing import Literal, Protocol

import numpy as np

Backend = Literal["torch", "onnxruntime", "openvino"]
Precision = Literal["fp32", "bf16", "int8"]


class Engine(Protocol):
    """A network that is ready to compute. It normalises its input itself, and threads may share it."""

    @property
    def backend(self) -> Backend:
        """The runtime."""
        ...

    @property
    def precision(self) -> Precision:
        """The number format of most of the arithmetic."""
        ...

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return logits, float32 (batch, num_classes).

        Args:
            images: uint8 (batch, height, width, channels), 0 to 255; 3 channels are RGB, 1 is grey.
        """
        ...

    def feature_maps(self, images: np.ndarray) -> np.ndarray:
        """Return the feature map of the last stage, float32 (batch, channels, height, width). The head averages it."""
        ...

    @property
    def head_weights(self) -> np.ndarray:
        """The weights of the fully connected head, float32 (num_classes, channels). Grad-CAM needs them."""
        ...
