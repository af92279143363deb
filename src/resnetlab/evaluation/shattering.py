"""Shattered gradients: the correlation between a network's gradients at neighbouring inputs.

Along a straight path of inputs, the gradients of a deep plain network resemble white noise: a step that helps one input
says nothing about the next. Those of a shallow network resemble brown noise, the sum of white noise. Residual networks
lie between.

Paper: Balduzzi, Frean, Leary, Lewis, Ma and McWilliams (2017), The Shattered Gradients Problem, section 2 and Figure 2.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from resnetlab.config import ConfigError, ModelConfig
from resnetlab.data.rng import make_generator
from resnetlab.models.evaluation_mode import evaluation_mode
from resnetlab.models.resnet import ResNet
from resnetlab.models.zoo import build_model
from resnetlab.system.tf32 import float32_products

NUM_PATHS = 4
"""Paths, each between two images of its own."""

NUM_POINTS = 256
"""Inputs on a path, as many as in the paper."""

MAX_LAG = 32
"""Largest distance between two inputs, in points."""

NOISE_DIMENSIONS = 2000
"""Independent series behind the autocorrelation of a noise."""


@dataclass(frozen=True)
class Autocorrelation:
    """The correlation of gradients at neighbouring inputs, by their distance."""

    label: str
    """The network and its weights, or the noise."""
    values: tuple[float, ...]
    """Autocorrelation at lag 0, 1, …, in −1 to 1, mean over paths; NaN if the gradient does not change on the path."""

    @property
    def half_lag(self) -> int | None:
        """The first lag whose correlation is below a half; `None` if there is none."""
        return next((lag for lag, value in enumerate(self.values) if value < 0.5), None)


def measure_shattering(
    model: ResNet,
    images: Tensor,
    *,
    num_paths: int = NUM_PATHS,
    num_points: int = NUM_POINTS,
    seed: int = 0,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> list[Autocorrelation]:
    """Measure a trained network, the same at initial weights, its plain or residual counterpart there, and two noises.

    Differs from the paper: paths connect images; the output is a random projection of the logits; and batch
    normalisation uses running statistics, so that each gradient belongs to one input. Those of initial networks are
    measured on the images.

    Args:
        model: The trained network.
        images: Normalised images (batch, channels, height, width), at least 2. The first pairs are the ends of paths.
        num_paths: Most paths.
        num_points: Inputs on each path, more than `MAX_LAG`.
        seed: Draws initial weights and the projection.
        on_progress: Called with a network, the number of networks measured and their total.

    Returns:
        The networks, then white and brown noise.

    Raises:
        ConfigError: if there are fewer than 2 images.
    """
    if len(images) < 2:
        raise ConfigError(f"a path needs 2 images, not {len(images)}")
    networks = [("trained weights", model)]
    for label, config in (("initial weights", model.config), *counterpart(model.config)):
        initial = build_model(config, generator=make_generator(seed, "shattering", "weights")).to(images.device)
        set_bn_statistics(initial, images)
        networks.append((label, initial))
    results = []
    for done, (label, network) in enumerate(networks, start=1):
        series = path_gradients(network, images, num_paths=num_paths, num_points=num_points, seed=seed)
        by_path = torch.stack([autocorrelation(path) for path in series])
        results.append(Autocorrelation(label, tuple(by_path.nanmean(0).tolist())))
        if on_progress:
            on_progress(label, done, len(networks))
    return [*results, *noises(num_points)]


def counterpart(config: ModelConfig) -> Sequence[tuple[str, ModelConfig]]:
    """Return the label and configuration of the same network with the other kind of shortcut; empty if there is none.

    A plain network gets option A's shortcuts; a residual one loses its own. Some blocks exist with shortcuts only.
    """
    label, shortcut = ("initial, with shortcuts", "pad") if config.shortcut == "none" else ("initial, plain", "none")
    try:
        changed = dataclasses.replace(config, shortcut=shortcut, zero_init_residual=False)
        build_model(changed)
    except ConfigError:
        return ()
    return ((label, changed),)


@torch.no_grad()
def set_bn_statistics(model: nn.Module, images: Tensor) -> None:
    """Set the running statistics of batch normalisation to those of the images, and switch to evaluation mode."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None  # the statistics of the one batch
    model.train()
    model(images)
    model.eval()


@torch.enable_grad()
@float32_products(tf32=False)
def path_gradients(model: ResNet, images: Tensor, *, num_paths: int, num_points: int, seed: int) -> Tensor:
    """Return the gradients of an output with respect to the inputs of straight paths between images.

    The output is the projection of the logits on a random direction of length 1. The network is in evaluation mode
    meanwhile.

    Returns:
        float32 (paths, points, pixels), on the CPU.
    """
    projection = torch.randn(model.config.num_classes, generator=make_generator(seed, "shattering", "projection"))
    projection = (projection / projection.norm()).to(images.device)
    shares = torch.linspace(0, 1, num_points, device=images.device)[:, None, None, None]
    paths = []
    with evaluation_mode(model):
        for number in range(min(num_paths, len(images) // 2)):
            first, last = images[2 * number], images[2 * number + 1]
            inputs = ((1 - shares) * first + shares * last).requires_grad_()
            output = (model(inputs) * projection).sum()
            paths.append(torch.autograd.grad(output, inputs)[0].flatten(1).cpu())
    return torch.stack(paths)


def autocorrelation(series: Tensor, max_lag: int = MAX_LAG) -> Tensor:
    """Return the autocorrelation of vectors (points, dimensions) at lag 0 … `max_lag`, as float64.

    c_l = Σ_t ⟨g_t − ḡ, g_{t+l} − ḡ⟩ / Σ_t ‖g_t − ḡ‖², the usual estimator: white noise gives about −1/points, and NaN
    stands for vectors that do not change.
    """
    centred = series.double() - series.double().mean(0)
    products = centred @ centred.T
    total = products.trace()
    if not total > 1e-24 * series.double().square().sum():
        return torch.full((max_lag + 1,), math.nan, dtype=torch.float64)
    return torch.stack([products.diagonal(lag).sum() / total for lag in range(max_lag + 1)])


def noises(num_points: int) -> list[Autocorrelation]:
    """Return the autocorrelation of white noise, and of brown noise (its running sum), over as many points."""
    white = torch.randn(num_points, NOISE_DIMENSIONS, generator=make_generator(0, "shattering", "noise"))
    series = {"white noise": white, "brown noise": white.double().cumsum(0)}
    return [Autocorrelation(label, tuple(autocorrelation(values).tolist())) for label, values in series.items()]
