"""Convert the tensors of an imported network to the state dict of a `ResNet` that computes the same, exactly."""

from collections.abc import Container, Mapping

import torch
from torch import Tensor

from resnetlab.config import ModelConfig, block_properties
from resnetlab.models.importing.conv_bn_pairs import BN_EPSILON
from resnetlab.models.importing.infer_architecture import InferredArchitecture
from resnetlab.models.importing.stems import DEEP
from resnetlab.models.importing.unsupported import UnsupportedError


def convert_state_dict(
    tensors: Mapping[str, Tensor], network: InferredArchitecture, expected: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the state dict of `ResNet(network.config)`, in float32.

    `expected` is the state dict of such a network; it gives the keys and shapes.

    Tensors that the file lacks get values that change nothing: scale 1 and shift 0; for a projection without batch
    normalisation, statistics that pass everything on; for an identity where option C has a projection, an identity
    projection. A bias before batch normalisation moves into the running mean:
    BN(Wx + b) = scale (Wx - (mean - b)) / deviation + shift. A head that is a 1x1 convolution becomes a linear layer.

    Raises:
        UnsupportedError: for tensors that are not real floating-point numbers, or have the wrong shape.
    """
    state = {}
    for key, target in expected.items():
        if key not in network.keys:
            state[key] = _neutral_tensor(key, target)
            continue
        tensor = _cast(tensors[network.keys[key]], network.keys[key], target)
        if tensor.numel() != target.numel():
            raise UnsupportedError(
                f"{network.keys[key]} has shape {tuple(tensor.shape)}, and as {key} of {network.config.name} it must "
                f"have {tuple(target.shape)}"
            )
        state[key] = tensor.reshape(target.shape)
    for key in sorted(set(network.keys) - set(expected)):  # biases before BN, which `ResNet` does not have
        bias = _cast(tensors[network.keys[key]], network.keys[key], torch.empty(0))
        mean = bn_of_conv(key) + ".running_mean"
        state[mean] = (state[mean].double() - bias.double()).float()
    return state


def with_reversed_channels(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights for images whose channels come in reverse order: a network for BGR then reads RGB."""
    first = next(key for key, tensor in state.items() if tensor.dim() == 4)  # conv1, or the first of a deep stem
    return {**state, first: state[first].flip(1).contiguous()}


def with_bn_epsilon(state: Mapping[str, Tensor], epsilon: float, in_file: Container[str]) -> dict[str, Tensor]:
    """Return weights that compute with `BN_EPSILON` what the given ones do with another epsilon.

    Only the sum of variance and epsilon matters, so the difference moves into the variances. Those of normalisations
    that the file does not have are neutral with `BN_EPSILON` already: only keys `in_file` change.
    """
    difference = epsilon - BN_EPSILON
    variances = [key for key in state if key.endswith("running_var") and key in in_file]
    return {**state, **{key: (state[key].double() + difference).float() for key in variances}}


def bn_of_conv(conv: str) -> str:
    """Return the name of the batch normalisation behind a convolution, given the key of one of its tensors."""
    layer = conv.rpartition(".")[0]
    if layer.endswith("downsample.0"):
        return layer.removesuffix("0") + "1"
    deep = dict(DEEP)
    if layer in deep:
        return deep[layer]
    before, _, number = layer.rpartition("conv")
    return f"{before}bn{number}"


def append_zero_channels(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Reorder the weights of a network whose option A splits its zero channels, so that they are all appended.

    In the given network, half of the zero channels (rounded down) stand before the others. Both networks compute the
    same logits. From the first padding shortcut on, the channels between blocks are permuted in every layer that writes
    or reads them. Channels inside a block stay in place.
    """
    result = dict(state)
    last = block_properties(config.block).num_convs
    order = torch.arange(config.stem_width)
    for stage, (count, inner) in enumerate(zip(config.stage_blocks, config.stage_channels, strict=True), start=1):
        for position in range(count):
            block, channels = f"layer{stage}.{position}", inner * config.expansion
            result[f"{block}.conv1.weight"] = state[f"{block}.conv1.weight"][:, order]
            order = _order_after_padding(order, channels)
            for key in state:
                if key.startswith((f"{block}.conv{last}.", f"{block}.bn{last}.")) and state[key].dim() > 0:
                    result[key] = result[key][order]
    result["fc.weight"] = state["fc.weight"][:, order]
    return {key: tensor.contiguous() for key, tensor in result.items()}


def _order_after_padding(order: Tensor, channels: int) -> Tensor:
    """Return the permutation of channels after a shortcut that pads to `channels`.

    Channel i of the result is channel `order[i]` of the file. The file's shortcut moved channel `order[i]` to
    `front + order[i]`.
    """
    extra = channels - len(order)
    if extra == 0:
        return order
    front = extra // 2
    shifted = order + front
    zeros = torch.cat([torch.arange(front), torch.arange(front + len(order), channels)])
    return torch.cat([shifted, zeros])


def _neutral_tensor(key: str, target: Tensor) -> Tensor:
    """Return values that change nothing: they make a BN, or a projection, exactly the identity."""
    if key.endswith("downsample.0.weight"):
        return torch.eye(*target.shape[:2])[:, :, None, None]
    value = {"weight": 1.0, "running_var": 1 - BN_EPSILON}.get(key.rpartition(".")[2], 0.0)
    return torch.full(target.shape, value, dtype=target.dtype)


def _cast(tensor: Tensor, key: str, target: Tensor) -> Tensor:
    """Return a copy of a tensor in the target's type: float32, or int64 for a counter."""
    is_counter = target.dtype == torch.int64
    plain = tensor.layout == torch.strided and not tensor.is_quantized and tensor.device.type == "cpu"
    if not plain or not (tensor.is_floating_point() or is_counter) or tensor.is_complex():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise UnsupportedError(f"{key} has numbers of type {kind}; only plain floating-point tensors can be converted")
    return tensor.to(target.dtype, copy=True, memory_format=torch.contiguous_format)
