"""Directions in the space of a network's weights, and the network moved along them.

Kernels and the weights of the head move. Biases, the parameters of batch normalisation and its running statistics stay,
as in Li et al. (2018), section 4: their direction is zero.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from resnetlab.config import ConfigError
from resnetlab.data.rng import make_generator

Weights = dict[str, Tensor]
"""Parameters or a direction: name in the network to a tensor."""

MIN_STATES = 3
"""Fewest states of a run that span a plane."""


@dataclass(frozen=True)
class Trajectory:
    """The plane through a run's states, and the states in it."""

    directions: tuple[Weights, Weights]
    """The two principal directions, each of Euclidean length 1."""
    coordinates: tuple[tuple[float, float], ...]
    """Each state's distance from the last one along both directions."""
    explained: tuple[float, float]
    """Share of the states' variance around the last one that each direction explains, 0 to 1."""


def moving_weights(model: nn.Module) -> Weights:
    """Return the parameters that move, by name: those with two or more dimensions."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.dim() > 1}


@torch.no_grad()
def random_direction(model: nn.Module, seed: int, number: int) -> Weights:
    """Return a random direction, filter-normalised: each filter is as long as the network's own.

    The direction is a function of the seed, the number and the shapes, on the CPU, and then on the model's device.

    Paper: Li et al. (2018), section 4: d ← d / ‖d‖ · ‖θ‖ for each filter; a row of the head is a filter too.
    """
    direction = {}
    for name, weight in moving_weights(model).items():
        rng = make_generator(seed, "direction", number, name)
        noise = torch.randn(weight.shape, generator=rng).to(weight.device).flatten(1)
        lengths = weight.flatten(1).norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True)
        direction[name] = (noise * lengths).view_as(weight)
    return direction


@torch.no_grad()
def trajectory_plane(states: Sequence[Mapping[str, Tensor]], model: nn.Module) -> Trajectory:
    """Return the plane of the two principal directions of θ_t − θ_last over the states of a run.

    Args:
        states: Parameters by name at each state, in order; the last one is the network's own.
        model: The network after the last state.

    Paper: Li et al. (2018), section 7.1.

    Raises:
        ConfigError: for fewer than 3 states, for states of another network, and if the states lie on a line.
    """
    last = moving_weights(model)
    if len(states) < MIN_STATES:
        raise ConfigError(f"a plane needs at least {MIN_STATES} states of the run, and there are {len(states)}")
    for state in states:
        if any(name not in state or state[name].shape != weight.shape for name, weight in last.items()):
            raise ConfigError("a state of the run has other weights than the network; all must be of one run")
    rows = torch.stack([flatten({name: state[name].to(w) - w for name, w in last.items()}) for state in states])
    gram = rows.double() @ rows.double().T  # few states, many weights: the small matrix has the same eigenvalues
    values, vectors = torch.linalg.eigh(gram)
    top = [len(states) - 1, len(states) - 2]
    if values[top[1]] <= 1e-12 * values[top[0]] or values[top[0]] <= 0:
        raise ConfigError("the states of the run lie on a line; keep more of them")
    directions = [(vectors[:, i] @ rows.double() / values[i].sqrt()).float() for i in top]
    total = float(values.clamp_min(0).sum())
    points = torch.stack([rows @ direction for direction in directions], 1)
    return Trajectory(
        directions=(unflatten(directions[0], last), unflatten(directions[1], last)),
        coordinates=tuple((float(x), float(y)) for x, y in points),
        explained=(float(values[top[0]]) / total, float(values[top[1]]) / total),
    )


@contextmanager
def moved(model: nn.Module, directions: Sequence[Weights], steps: Sequence[float]) -> Iterator[None]:
    """Add `steps[i] * directions[i]` to the weights in the body, and restore the same bits afterwards."""
    weights = moving_weights(model)
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    try:
        with torch.no_grad():
            for name, weight in weights.items():
                for direction, step in zip(directions, steps, strict=True):
                    weight.add_(direction[name], alpha=step)
        yield
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(before[name])


def flatten(weights: Mapping[str, Tensor]) -> Tensor:
    """Return all tensors as one vector."""
    return torch.cat([tensor.flatten() for tensor in weights.values()])


def unflatten(vector: Tensor, like: Mapping[str, Tensor]) -> Weights:
    """Return a vector as tensors of the shapes in `like`."""
    parts = vector.split([tensor.numel() for tensor in like.values()])
    return {name: part.view_as(tensor) for (name, tensor), part in zip(like.items(), parts, strict=True)}
