"""How a network is judged on a split. So far: the single original view (section 4.2)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from resnetlab.config import ConfigError, Preprocessing
from resnetlab.data.loader import eval_batches
from resnetlab.data.split import Split


@dataclass(frozen=True)
class Score:
    """What one pass over a split counted: every sample exactly once."""

    num_samples: int
    num_wrong: int
    loss: float
    """Mean cross entropy, in nats."""

    @property
    def error_pct(self) -> float:
        """Share of samples whose most probable class is not the label (top-1 error), in %."""
        return 100 * self.num_wrong / self.num_samples


@torch.no_grad()
def single_view(model: nn.Module, split: Split, preprocessing: Preprocessing, *, workers: int = 0) -> Score:
    """Judge a network on the original images of a split, in evaluation mode; the mode it was in comes back.

    Always in fp32, whatever the training computed in: it is how the model file will be used. `workers` threads decode
    images that are not resident.

    Raises:
        ConfigError: where there is not one image to judge on.
    """
    was_training = model.training
    model.eval()
    num_samples, num_wrong, loss = 0, 0, 0.0
    try:
        for images, labels in eval_batches(split, preprocessing, workers=workers):
            logits = model(images).float()
            num_samples += len(labels)
            num_wrong += int((logits.argmax(1) != labels).sum())
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
    finally:
        model.train(was_training)
    if num_samples == 0:
        raise ConfigError("not one image of a split can be decoded; list them with: resnetlab data check PATH")
    return Score(num_samples, num_wrong, loss / num_samples)
