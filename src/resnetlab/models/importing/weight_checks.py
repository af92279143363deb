"""Warnings about the weights of an imported network or a model file."""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from resnetlab.models.importing.infer_architecture import InferredArchitecture

MAX_NAMED_KEYS = 3
"""Keys that a warning names; it counts the others."""
PIXEL_STD = 0.25
"""Standard deviation of the pixels of photographs, from 0 to 1: 0.25 in CIFAR-10, 0.22 to 0.23 in ImageNet."""


def weight_warnings(
    tensors: Mapping[str, Tensor], network: InferredArchitecture, state: Mapping[str, Tensor]
) -> tuple[str, ...]:
    """Return the unusual properties of a file of weights, one sentence each.

    `state` is the result of `convert_state_dict`; its values are checked in float32.
    """
    return (*_key_warnings(tensors, network, state), *value_warnings(state))


def count_non_finite(state: Mapping[str, Tensor]) -> int:
    """Count the numbers that are NaN or infinite."""
    return sum(int((~torch.isfinite(tensor)).sum()) for tensor in state.values())


def _key_warnings(
    tensors: Mapping[str, Tensor], network: InferredArchitecture, state: Mapping[str, Tensor]
) -> list[str]:
    """Return warnings about number types, and about tensors that the file lacks or has in excess."""
    keys, warnings = network.keys, []
    has_norm = network.config.norm == "batch"
    dtypes = {
        str(tensors[key].dtype).removeprefix("torch.") for key in keys.values() if tensors[key].dtype.is_floating_point
    }
    if dtypes - {"float32"}:
        warnings.append(f"numbers of type {' and '.join(sorted(dtypes))}; read as float32")
    biases = [key for key in keys if re.search(r"(conv\d(\.\d)?|downsample\.0)\.bias$", key)]
    if has_norm and biases:
        warnings.append(
            f"{_count(biases, 'convolution')} a bias before batch normalisation; it was moved into the running mean"
        )
    added = [key for key in state if key.endswith("downsample.0.weight") and key not in keys]
    if added:
        warnings.append(
            f"{_count(added, 'block')} an identity where option C projects; identity projections were added"
        )
    without_norm = [
        key
        for key in state
        if key.endswith("downsample.1.running_mean")
        and key not in keys
        and key.replace("1.running_mean", "0.weight") in keys
    ]
    if without_norm:
        warnings.append(f"{_count(without_norm, 'projection')} no batch normalisation; an identity was added")
    means = [key for key in state if key.endswith("running_mean") and key in keys]
    with_counter = [key for key in means if key.replace("running_mean", "num_batches_tracked") in keys]
    if len(with_counter) < len(means):
        warnings.append("no num_batches_tracked: an old file (before PyTorch 0.4.1), or frozen; set to 0")
    with_scale = [key for key in means if key.replace("running_mean", "weight") in keys]
    if len(with_scale) < len(means):
        warnings.append("batch normalisation without scale and shift; set to 1 and 0")
    if "fc.bias" not in keys:
        warnings.append("a head without a bias; set to 0")
    if network.config.num_classes == 1:
        warnings.append("one output, as for a yes-or-no network; here it is the only class and always 100 % probable")
    if network.unused_keys:
        warnings.append(f"left out, since only training uses them: {_list_keys(network.unused_keys)}")
    return warnings


def value_warnings(state: Mapping[str, Tensor]) -> list[str]:
    """Return the unusual properties of the numbers in the state dict of a `ResNet`, one sentence each."""
    warnings = []
    non_finite = [key for key, tensor in state.items() if not bool(torch.isfinite(tensor).all())]
    if non_finite:
        warnings.append(f"{count_non_finite(state):,} numbers are not finite, in {_list_keys(non_finite)}")
    variances = {key: tensor for key, tensor in state.items() if key.endswith("running_var")}
    negative = [key for key, tensor in variances.items() if bool((tensor < 0).any())]
    if negative:
        warnings.append(f"variances below 0 in {_list_keys(negative)}")
    zero = [key for key, tensor in variances.items() if bool((tensor == 0).any())]
    if zero:
        count = sum(int((variances[key] == 0).sum()) for key in zero)
        warnings.append(f"{count:,} channels of variance 0 in {_list_keys(zero)}: their input was constant in training")
    if variances and all(_is_untrained(state, key) for key in variances):
        warnings.append("every running mean is 0 and every variance 1: batch normalisation was never trained")
    zero_convs = [key for key, tensor in state.items() if tensor.dim() == 4 and not bool(tensor.any())]
    if zero_convs:
        warnings.append(f"convolutions of zeros only: {_list_keys(zero_convs)}")
    return warnings


def bn_variance_ratio(state: Mapping[str, Tensor], std: Sequence[float]) -> float | None:
    """Return how many times larger than expected the variances of the first batch normalisation are (the median).

    The expected variance is that of the first convolution's output for independent pixels, from 0 to 1, divided by
    `std`. Correlated pixels and edge-detecting kernels change it a few times (published CIFAR-10 networks: 2 and 1).
    Pixels from 0 to 255 change it 65,025 times. `None` if there is no batch normalisation, or it was never trained,
    or the stem is deep.
    """
    if "conv1.weight" not in state or "bn1.running_var" not in state or _is_untrained(state, "bn1.running_var"):
        return None
    actual, kernels = state["bn1.running_var"].double(), state["conv1.weight"].double()
    kernels = kernels / torch.tensor(std, dtype=torch.float64).view(1, -1, 1, 1)
    expected = kernels.square().sum((1, 2, 3)) * PIXEL_STD**2
    positive = (expected > 0) & (actual > 0)
    return float((actual / expected)[positive].median()) if bool(positive.any()) else None


def _is_untrained(state: Mapping[str, Tensor], key: str) -> bool:
    """Return whether the running statistics of a batch normalisation have their initial values."""
    mean = state[key.replace("running_var", "running_mean")]
    return bool((state[key] == 1).all()) and bool((mean == 0).all())


def _count(keys: Sequence[str], noun: str) -> str:
    return f"1 {noun} has" if len(keys) == 1 else f"{len(keys)} {noun}s have"


def _list_keys(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - MAX_NAMED_KEYS} more" if len(keys) > MAX_NAMED_KEYS else ""
    return ", ".join(keys[:MAX_NAMED_KEYS]) + more
