"""What is odd about the weights of a network, in words."""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from resnetlab.models.importing.infer_architecture import InferredArchitecture

SHOWN = 3
"""Keys that are named; of others the number is said."""
DEVIATION = 0.25
"""Of the pixels of photographs, from 0 to 1: 0.25 in CIFAR-10, 0.22 to 0.23 in ImageNet."""


def weight_warnings(
    tensors: Mapping[str, Tensor], network: InferredArchitecture, state: Mapping[str, Tensor]
) -> tuple[str, ...]:
    """Say what a careful reader of the file would stop at, a sentence each.

    `state` is what was made of the file (`convert.translate`); values are judged there, in float32.
    """
    return (*_of_keys(tensors, network, state), *value_warnings(state))


def count_non_finite(state: Mapping[str, Tensor]) -> int:
    """Count the numbers that are NaN or infinite."""
    return sum(int((~torch.isfinite(tensor)).sum()) for tensor in state.values())


def _of_keys(tensors: Mapping[str, Tensor], network: InferredArchitecture, state: Mapping[str, Tensor]) -> list[str]:
    keys, said = network.keys, []
    batch = network.config.norm == "batch"
    kinds = {
        str(tensors[key].dtype).removeprefix("torch.") for key in keys.values() if tensors[key].dtype.is_floating_point
    }
    if kinds - {"float32"}:
        said.append(f"numbers of type {' and '.join(sorted(kinds))}; read as float32")
    biases = [key for key in keys if re.search(r"(conv\d|downsample\.0)\.bias$", key)]
    if batch and biases:
        said.append(f"{_count(biases, 'convolution')} a bias before batch normalisation; it went into the running mean")
    added = [key for key in state if key.endswith("downsample.0.weight") and key not in keys]
    if added:
        said.append(
            f"{_count(added, 'block')} an identity where option C projects; they were given projections that pass on "
            "what they read"
        )
    bare = [
        key
        for key in state
        if key.endswith("downsample.1.running_mean")
        and key not in keys
        and key.replace("1.running_mean", "0.weight") in keys
    ]
    if bare:
        said.append(f"{_count(bare, 'projection')} no batch normalisation; they were given one that changes nothing")
    lacking = [key for key in state if key.endswith("running_mean") and key in keys]
    counted = [key for key in lacking if key.replace("running_mean", "num_batches_tracked") in keys]
    if len(counted) < len(lacking):
        said.append("no num_batches_tracked: an old file (before PyTorch 0.4.1), or frozen; set to 0")
    scaled = [key for key in lacking if key.replace("running_mean", "weight") in keys]
    if len(scaled) < len(lacking):
        said.append("batch normalisation without scale and shift; set to 1 and 0")
    if "fc.bias" not in keys:
        said.append("a head without a bias; set to 0")
    if network.config.num_classes == 1:
        said.append("one output, as for yes or no: here it would be the only class, and always 100 % probable")
    if network.left_over:
        said.append(f"left out, since only training uses them: {_some(network.left_over)}")
    return said


def value_warnings(state: Mapping[str, Tensor]) -> list[str]:
    """Say what is odd about the numbers of a state dict of ours."""
    said = []
    wrong = [key for key, tensor in state.items() if not bool(torch.isfinite(tensor).all())]
    if wrong:
        said.append(f"{count_non_finite(state):,} numbers are not finite, in {_some(wrong)}")
    variances = {key: tensor for key, tensor in state.items() if key.endswith("running_var")}
    below = [key for key, tensor in variances.items() if bool((tensor < 0).any())]
    if below:
        said.append(f"variances below 0 in {_some(below)}")
    still = [key for key, tensor in variances.items() if bool((tensor == 0).any())]
    if still:
        num = sum(int((variances[key] == 0).sum()) for key in still)
        said.append(f"{num:,} channels of variance 0 in {_some(still)}: what they read was constant in training")
    if variances and all(_fresh(state, key) for key in variances):
        said.append("every running mean is 0 and every variance 1: batch normalisation has not seen an image")
    dead = [key for key, tensor in state.items() if tensor.dim() == 4 and not bool(tensor.any())]
    if dead:
        said.append(f"convolutions of zeros alone: {_some(dead)}")
    return said


def bn_variance_ratio(state: Mapping[str, Tensor], std: Sequence[float]) -> float | None:
    """Return how many times larger than expected the first batch normalisation's variances are: their median.

    Expected is what the first convolution gives of independent pixels, from 0 to 1, that were divided by `std`.
    Neighbours that are alike, and kernels that look for edges, make that wrong by some times (the published CIFAR-10
    networks: 2 and 1), and pixels from 0 to 255 by 65,025. `None` where there is no batch normalisation, or it has not
    seen an image.
    """
    if "bn1.running_var" not in state or _fresh(state, "bn1.running_var"):
        return None
    seen, kernels = state["bn1.running_var"].double(), state["conv1.weight"].double()
    kernels = kernels / torch.tensor(std, dtype=torch.float64).view(1, -1, 1, 1)
    expected = kernels.square().sum((1, 2, 3)) * DEVIATION**2
    alive = (expected > 0) & (seen > 0)
    return float((seen / expected)[alive].median()) if bool(alive.any()) else None


def _fresh(state: Mapping[str, Tensor], key: str) -> bool:
    mean = state[key.replace("running_var", "running_mean")]
    return bool((state[key] == 1).all()) and bool((mean == 0).all())


def _count(keys: Sequence[str], what: str) -> str:
    return f"1 {what} has" if len(keys) == 1 else f"{len(keys)} {what}s have"


def _some(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return ", ".join(keys[:SHOWN]) + more
