"""Parameters, MACs and activation memory of a network, per layer and in total, measured on the network itself.

The paper's "FLOPs" are multiply-adds. We call them MACs and, as the paper does, count convolutions and the head.
"""

import copy
import dataclasses
import functools
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from resnetlab.config import ModelConfig
from resnetlab.models.resnet import ResNet
from resnetlab.models.variants.scalars import Scale, Shift
from resnetlab.serialization import check_type

PROBE_BATCH = 2
"""Images in the counting pass: batch normalisation on a map of one position needs two."""

DISTINCT_BLOCKS = 2
"""Blocks of a stage that can differ in cost: the first has the stride and the projection, all others are equal."""

LAYERS = (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.Linear, Scale, Shift)
"""Kinds of layers that are always listed; other modules are if they have parameters of their own."""


@dataclass(frozen=True)
class LayerCost:
    """The cost of one layer: its `name` in the state dict, its class (`kind`) and its number of `params`.

    `output_shape` is (channels, height, width), or (features,). `macs` are for one image. `activation_bytes` are the
    bytes that autograd stores for the backward pass of the whole batch in fp32, with the ReLU and addition that follow.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    params: int
    macs: int
    activation_bytes: int


@dataclass(frozen=True)
class Cost:
    """The cost of a network: its layers, and their sums."""

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
        """Bytes that autograd stores between the forward and the backward pass of the batch, in fp32."""
        return sum(layer.activation_bytes for layer in self.layers)


def cost_of_config(config: ModelConfig, image_size: int, batch_size: int = 1) -> Cost:
    """Return what `cost` measures on the network of a configuration, without building the whole network.

    Only the first two blocks of each stage are built and measured; each further block costs what the second does. The
    time does not depend on the depth.
    """
    short = tuple(min(count, DISTINCT_BLOCKS) for count in config.stage_blocks)
    measured = _measure_short(dataclasses.replace(config, name="custom", stage_blocks=short), image_size, batch_size)
    layers: list[LayerCost] = []
    for (stage, position), group in itertools.groupby(measured.layers, key=_block_of):
        block = tuple(group)
        layers += block
        if position == DISTINCT_BLOCKS - 1:
            old = f"layer{stage}.{position}"
            for further in range(DISTINCT_BLOCKS, config.stage_blocks[stage - 1]):
                new = f"layer{stage}.{further}"
                layers += [dataclasses.replace(x, name=x.name.replace(old, new, 1)) for x in block]
    return Cost(tuple(layers))


def _block_of(layer: LayerCost) -> tuple[int, int]:
    """Return the number of a layer's stage (from 1) and of its block (from 0); (0, 0) for the stem and the head."""
    found = re.match(r"layer(\d+)\.(\d+)(?:\.|$)", layer.name)
    return (int(found[1]), int(found[2])) if found else (0, 0)


@functools.lru_cache(maxsize=64)
def _measure_short(config: ModelConfig, image_size: int, batch_size: int) -> Cost:
    with torch.random.fork_rng(devices=[]):  # building a network consumes PyTorch's global random numbers
        return cost(ResNet(config), image_size, batch_size)


def cost(model: ResNet, image_size: int, batch_size: int = 1) -> Cost:
    """Measure the cost of a network on square images of `image_size` pixels, for training steps of `batch_size` images.

    A copy runs one forward pass on two black images, so shapes and stored tensors are observed, not derived. (The meta
    device would compute nothing, but it loads sympy first, which takes longer than the pass.)
    """
    check_type("model", model, ResNet, example="resnetlab.build_model('resnet20')")
    probe = copy.deepcopy(model).cpu().float().train()
    images = torch.zeros(PROBE_BATCH, model.config.in_channels, image_size, image_size)
    names: dict[nn.Module, str] = {
        m: name
        for name, m in probe.named_modules()
        if isinstance(m, LAYERS) or next(m.parameters(recurse=False), None) is not None
    }
    shapes: dict[str, tuple[int, ...]] = {}
    stored_bytes = dict.fromkeys(names.values(), 0)
    entered = [next(iter(names.values()))]
    counted = {p.untyped_storage().data_ptr() for p in probe.parameters()} | {images.untyped_storage().data_ptr()}

    def before_layer(module: nn.Module, _inputs: object) -> None:
        entered.append(names[module])

    def after_layer(module: nn.Module, _inputs: object, output: object) -> None:
        shapes[names[module]] = tuple(output.shape[1:]) if isinstance(output, Tensor) else ()

    def count_stored(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in counted:  # autograd holds it until the end, so no other tensor gets its address
            counted.add(storage.data_ptr())
            num_images = tensor.shape[0] if tensor.dim() > 1 else batch_size  # BN's statistics serve the whole batch
            stored_bytes[entered[-1]] += tensor.numel() * tensor.element_size() * batch_size // num_images
        return tensor

    for module in names:
        module.register_forward_pre_hook(before_layer)
        module.register_forward_hook(after_layer)
    with torch.autograd.graph.saved_tensors_hooks(count_stored, lambda tensor: tensor):
        _logits = probe(images)  # the name keeps the graph and its tensors alive until the counting is done
    params = _count_parameters(names)
    return Cost(
        tuple(
            _layer_cost(module, name, shapes.get(name, ()), params=params[module], activation_bytes=stored_bytes[name])
            for module, name in names.items()
        )
    )


def _count_parameters(modules: Iterable[nn.Module]) -> dict[nn.Module, int]:
    """Return the numbers in the parameters of each module, without those that a module before it has."""
    seen: set[nn.Parameter] = set()
    counts: dict[nn.Module, int] = {}
    for module in modules:
        own = set(module.parameters(recurse=isinstance(module, LAYERS))) - seen
        counts[module] = sum(parameter.numel() for parameter in own)
        seen |= own
    return counts


def _layer_cost(
    module: nn.Module, name: str, shape: tuple[int, ...], *, params: int, activation_bytes: int
) -> LayerCost:
    macs = 0
    if isinstance(module, nn.Conv2d):
        macs = module.weight.numel() * shape[1] * shape[2]
    elif isinstance(module, nn.Linear):
        macs = module.weight.numel()
    return LayerCost(
        name=name,
        kind=type(module).__name__,
        output_shape=shape,
        params=params,
        macs=macs,
        activation_bytes=activation_bytes,
    )
