"""Build an architecture by its configuration and draw its initial weights."""

import math

import torch
from torch import Generator, nn

from resnetlab.architecture_config import ArchitectureConfig
from resnetlab.models.architectures.conv1d import Conv1dNet
from resnetlab.models.architectures.mlp import Mlp
from resnetlab.models.architectures.transformer import Transformer
from resnetlab.models.architectures.vgg import Vgg

CLASSES: dict[str, type[Mlp] | type[Vgg] | type[Conv1dNet] | type[Transformer]] = {
    "mlp": Mlp,
    "vgg": Vgg,
    "conv1d": Conv1dNet,
    "transformer": Transformer,
}
"""Name to class; the names are those of `ARCHITECTURES`."""


def build_architecture(config: ArchitectureConfig, generator: Generator) -> nn.Module:
    """Return the network of a configuration, with initial weights from `generator`.

    For one state of the generator, networks that differ only in `residual` have the same initial weights. PyTorch's
    global generator does not move.
    """
    with torch.random.fork_rng(devices=[]):  # layers draw weights when they are built
        network = CLASSES[config.name](config)
    draw_weights(network, generator, gain=network.gain)
    return network


def draw_weights(network: nn.Module, generator: Generator, *, gain: float) -> None:
    """Draw the weights of every linear and convolutional layer with variance `gain` / fan-in, and set biases to 0.

    The head has a variance of 1 / (3 fan-in), as that of a ResNet here and in PyTorch: residual features grow with
    depth, and wrong answers that are sure of themselves have steep gradients.

    Embeddings have variance 1, as the normalised images have.

    Paper: section 3.4 and its reference [13], where the gain is 2 for layers that follow a ReLU.
    """
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
            variance = (1 / 3 if name == "head" else gain) / layer.weight[0].numel()
            nn.init.normal_(layer.weight, 0.0, math.sqrt(variance), generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Embedding):
            nn.init.normal_(layer.weight, generator=generator)
