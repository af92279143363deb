"""Tensors of a foreign network → the state dict of ours that computes the same, exactly."""

from collections.abc import Mapping

import torch
from torch import Tensor

from resnetlab.config import ModelConfig
from resnetlab.models.importing.infer_architecture import InferredArchitecture
from resnetlab.models.importing.unsupported import UnsupportedError

BN_EPSILON = 1e-5
"""What `torch.nn.BatchNorm2d` adds to a variance."""


def convert_state_dict(
    tensors: Mapping[str, Tensor], network: InferredArchitecture, expected: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the state dict of `ResNet(network.config)`: float32 copies under our keys.

    `expected` is the state dict of such a network, for its shapes.

    What the file lacks is filled with what changes nothing: a scale of 1, a shift of 0, for a projection without batch
    normalisation statistics that pass everything on, where option C has a projection and the file an identity a
    projection that is the identity. A bias before batch normalisation goes into its running mean,
    BN(Wx + b) = scale (Wx - (mean - b)) / deviation + shift. A head that is a 1x1 convolution becomes a linear layer.

    Raises:
        UnsupportedError: for tensors that are not of real floating point, or not of the shape they must have.
    """
    state = {}
    for key, wanted in expected.items():
        if key not in network.keys:
            state[key] = _neutral(key, wanted)
            continue
        tensor = _number(tensors[network.keys[key]], network.keys[key], wanted)
        if tensor.numel() != wanted.numel():
            raise UnsupportedError(
                f"{network.keys[key]} has shape {tuple(tensor.shape)}, and as {key} of {network.config.name} it must "
                f"have {tuple(wanted.shape)}"
            )
        state[key] = tensor.reshape(wanted.shape)
    for key in sorted(set(network.keys) - set(expected)):  # biases before BN: ours have none
        bias = _number(tensors[network.keys[key]], network.keys[key], torch.empty(0))
        mean = bn_of_conv(key) + ".running_mean"
        state[mean] = (state[mean].double() - bias.double()).float()
    return state


def bn_of_conv(conv: str) -> str:
    """Return which batch normalisation follows a convolution, given the key of one of its tensors."""
    layer = conv.rpartition(".")[0]
    if layer.endswith("downsample.0"):
        return layer.removesuffix("0") + "1"
    before, _, number = layer.rpartition("conv")
    return f"{before}bn{number}"


def append_zero_channels(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Return the weights of the network whose option A appends all its zero channels, given those of one that splits.

    There, half of the zero channels (rounded down) stand before the others. Both compute the same logits: the channels
    between blocks are put in another order, from the first shortcut that pads on, in whatever writes and reads them.
    Channels inside a block keep their places.
    """
    result = dict(state)
    last = 2 if config.block == "basic" else 3
    order = torch.arange(config.stage_channels[0])
    for stage, (count, inner) in enumerate(zip(config.stage_blocks, config.stage_channels, strict=True), start=1):
        for position in range(count):
            block, channels = f"layer{stage}.{position}", inner * config.expansion
            result[f"{block}.conv1.weight"] = state[f"{block}.conv1.weight"][:, order]
            order = _after_padding(order, channels)
            for key in state:
                if key.startswith((f"{block}.conv{last}.", f"{block}.bn{last}.")) and state[key].dim() > 0:
                    result[key] = result[key][order]
    result["fc.weight"] = state["fc.weight"][:, order]
    return {key: tensor.contiguous() for key, tensor in result.items()}


def _after_padding(order: Tensor, channels: int) -> Tensor:
    """Return which of the file's channels stands where after a shortcut that pads to `channels`.

    Ours, i, comes from ours before it; the file's shortcut took that from `order[i]` to `front + order[i]`.
    """
    extra = channels - len(order)
    if extra == 0:
        return order
    front = extra // 2
    shifted = order + front
    zeros = torch.cat([torch.arange(front), torch.arange(front + len(order), channels)])
    return torch.cat([shifted, zeros])


def _neutral(key: str, wanted: Tensor) -> Tensor:
    """Return what changes nothing: BN with these values is the identity, exactly, and so is a projection."""
    if key.endswith("downsample.0.weight"):
        return torch.eye(*wanted.shape[:2])[:, :, None, None]
    value = {"weight": 1.0, "running_var": 1 - BN_EPSILON}.get(key.rpartition(".")[2], 0.0)
    return torch.full(wanted.shape, value, dtype=wanted.dtype)


def _number(tensor: Tensor, key: str, wanted: Tensor) -> Tensor:
    """Return a copy of a tensor with the type that ours has: float32, or int64 for a count."""
    counts = wanted.dtype == torch.int64
    plain = tensor.layout == torch.strided and not tensor.is_quantized and tensor.device.type == "cpu"
    if not plain or not (tensor.is_floating_point() or counts) or tensor.is_complex():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise UnsupportedError(f"{key} has numbers of type {kind}; known are plain floating-point tensors")
    return tensor.to(wanted.dtype, copy=True, memory_format=torch.contiguous_format)
