"""A network of ours in PyTorch: eager, in fp32, channels last in memory."""

import numpy as np
import torch
from torch import Tensor

from resnetlab.config import Preprocessing
from resnetlab.data.transforms import normalise
from resnetlab.inference.engines.base import Backend, Precision
from resnetlab.models.resnet import ResNet


class TorchEngine:
    """An `Engine` that is a `ResNet`, on whatever device that lives; it computes what the network computes."""

    backend: Backend = "torch"
    precision: Precision = "fp32"

    def __init__(self, network: ResNet, preprocessing: Preprocessing) -> None:
        """Take a network, which is put into evaluation mode and stays the caller's own."""
        self.network = network.eval()
        self.preprocessing = preprocessing

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.network.parameters()).device

    def seen(self, views: np.ndarray) -> Tensor:
        """Normalise uint8 images, as evaluation does: float32 on the network's device, channels last in memory."""
        images = torch.from_numpy(views).permute(0, 3, 1, 2).to(self.device)
        return normalise(images, self.preprocessing).contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def logits(self, views: np.ndarray) -> np.ndarray:
        """See `Engine.logits`."""
        return self.network(self.seen(views)).float().cpu().numpy()

    @torch.no_grad()
    def maps(self, views: np.ndarray) -> np.ndarray:
        """See `Engine.maps`."""
        *_, last = self.network.features(self.seen(views)).values()
        return last.float().contiguous().cpu().numpy()

    @property
    def head(self) -> np.ndarray:
        """See `Engine.head`."""
        return self.network.fc.weight.detach().float().cpu().numpy()
