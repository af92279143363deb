"""The PyTorch engine: eager, fp32, channels-last memory format."""

import numpy as np
import torch
from torch import Tensor

from resnetlab.config import Preprocessing
from resnetlab.data.transforms import normalise
from resnetlab.inference.engines.base import Backend, Precision
from resnetlab.models.resnet import ResNet
from resnetlab.system.tf32 import float32_products


class TorchEngine:
    """An `Engine` that runs a `ResNet` on the device of its parameters."""

    backend: Backend = "torch"
    precision: Precision = "fp32"

    def __init__(self, network: ResNet, preprocessing: Preprocessing) -> None:
        """Put `network` into evaluation mode and use it without a copy."""
        self.network = network.eval()
        self.preprocessing = preprocessing

    @property
    def device(self) -> torch.device:
        """The device of the network's parameters."""
        return next(self.network.parameters()).device

    def to_tensor(self, images: np.ndarray) -> Tensor:
        """Return the normalised input of the network.

        Args:
            images: uint8 (batch, height, width, channels), 0 to 255.

        Returns:
            float32 (batch, channels, height, width) on `device`, in channels-last memory format, as in evaluation.
        """
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).to(self.device)
        return normalise(pixels, self.preprocessing).contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    @float32_products(tf32=False)
    def logits(self, images: np.ndarray) -> np.ndarray:
        """See `Engine.logits`."""
        return self.network(self.to_tensor(images)).float().cpu().numpy()

    @torch.no_grad()
    @float32_products(tf32=False)
    def feature_maps(self, images: np.ndarray) -> np.ndarray:
        """See `Engine.feature_maps`."""
        *_, last = self.network.features(self.to_tensor(images)).values()
        return last.float().contiguous().cpu().numpy()

    @torch.no_grad()
    @float32_products(tf32=False)
    def head(self, features: np.ndarray) -> np.ndarray:
        """Return logits, float32 (batch, num_classes), of features: float32 (batch, channels)."""
        return self.network.fc(torch.from_numpy(features).to(self.device)).float().cpu().numpy()

    @property
    def head_weights(self) -> np.ndarray:
        """See `Engine.head_weights`."""
        return self.network.fc.weight.detach().float().cpu().numpy()
