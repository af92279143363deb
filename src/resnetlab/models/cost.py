"""Parameters, MACs and activation memory, per layer and in total, counted on the network itself.

The paper's "FLOPs" are multiply-adds; we say MACs, and count convolutions and the head as the paper does.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from resnetlab.models.resnet import ResNet

PROBE = 2
"""Images in the counting pass: batch normalisation on a map of one position needs two."""

COUNTED = (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.Linear)


@dataclass(frozen=True)
class LayerCost:
    """What one layer costs.

    `output_shape` is (channels, height, width), or (features,); `macs` are for one image; `activation_bytes` is what
    autograd keeps for the backward pass of the whole batch in fp32, with the ReLU and addition that follow.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    params: int
    macs: int
    activation_bytes: int


@dataclass(frozen=True)
class Cost:
    """What a network costs: its layers, and their sums."""

    layers: tuple[LayerCost, ...]

    @property
    def params(self) -> int:
        """Trainable numbers: weights, biases, BN scales and shifts."""
        return sum(layer.params for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-adds of convolutions and the head for one image."""
        return sum(layer.macs for layer in self.layers)

    @property
    def activation_bytes(self) -> int:
        """Bytes autograd keeps between the forward and the backward pass of the batch, in fp32."""
        return sum(layer.activation_bytes for layer in self.layers)


def cost(model: ResNet, image_size: int, batch_size: int = 1) -> Cost:
    """Count a network on square images of `image_size` pixels, for a training step of `batch_size` images.

    One forward pass of two black images on a copy: shapes and kept tensors are seen, not derived. (The meta device
    would compute nothing, but loads sympy first, which takes longer than the pass.)
    """
    twin = copy.deepcopy(model).cpu().float().train()
    images = torch.zeros(PROBE, model.config.in_channels, image_size, image_size)
    names: dict[nn.Module, str] = {module: name for name, module in twin.named_modules() if isinstance(module, COUNTED)}
    shapes: dict[str, tuple[int, ...]] = {}
    kept_bytes = dict.fromkeys(names.values(), 0)
    entered = ["conv1"]
    known = {p.untyped_storage().data_ptr() for p in twin.parameters()} | {images.untyped_storage().data_ptr()}

    def enter(module: nn.Module, _inputs: object) -> None:
        entered.append(names[module])

    def leave(module: nn.Module, _inputs: object, output: Tensor) -> None:
        shapes[names[module]] = tuple(output.shape[1:])

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:  # autograd holds it until the end, so its address stays its own
            known.add(storage.data_ptr())
            images_in_it = tensor.shape[0] if tensor.dim() > 1 else batch_size  # BN's statistics serve the whole batch
            kept_bytes[entered[-1]] += tensor.numel() * tensor.element_size() * batch_size // images_in_it
        return tensor

    for module in names:
        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _logits = twin(images)  # named, so that the graph and all it keeps live until the counting is done
    return Cost(tuple(_layer(module, name, shapes[name], kept_bytes[name]) for module, name in names.items()))


def _layer(module: nn.Module, name: str, shape: tuple[int, ...], activation_bytes: int) -> LayerCost:
    macs = 0
    if isinstance(module, nn.Conv2d):
        macs = module.weight.numel() * shape[1] * shape[2]
    elif isinstance(module, nn.Linear):
        macs = module.weight.numel()
    return LayerCost(
        name=name,
        kind=type(module).__name__,
        output_shape=shape,
        params=sum(p.numel() for p in module.parameters()),
        macs=macs,
        activation_bytes=activation_bytes,
    )
