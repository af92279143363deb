"""Curvature of the loss at a network's weights: products with the Hessian, and its largest eigenvalues.

The Hessian is that of the mean loss on some images in evaluation mode, with respect to the weights that move in a
landscape (`directions.moving_weights`).
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnetlab.config import ConfigError
from resnetlab.evaluation.landscapes.directions import Weights, flatten, moving_weights, unflatten
from resnetlab.models.evaluation_mode import evaluation_mode
from resnetlab.system.tf32 import float32_products

BATCH_SIZE = 64
"""Images whose activations are in memory for a product."""

TOLERANCE = 1e-2
"""Relative accuracy of the eigenvalues."""

MAX_RESTARTS = 10
"""Restarts of the Lanczos iteration before it counts as not converged; each takes about 20 products."""


@dataclass(frozen=True)
class Curvature:
    """The curvature of a loss at a network's weights."""

    eigenvalues: tuple[float, ...]
    """The largest eigenvalues of the Hessian, in descending order; fewer than asked for if some did not converge."""
    along: tuple[float, ...]
    """Curvature dᵀHd / dᵀd along given directions; at most the largest eigenvalue."""


@float32_products(tf32=False)
def hessian_product(model: nn.Module, images: Tensor, labels: Tensor, *, vector: Weights) -> Weights:
    """Return the product of the Hessian of the mean loss with a direction.

    Args:
        model: In evaluation mode.
        images: Normalised images (batch, channels, height, width).
        labels: int64 (batch,).
        vector: A direction (`directions.Weights`).
    """
    weights = moving_weights(model)
    product = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for batch, truth in zip(images.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True):
        with torch.enable_grad():
            loss = F.cross_entropy(model(batch), truth, reduction="sum") / len(labels)
            gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            pairs = zip(gradients, vector.values(), strict=True)
            slope = torch.stack([(gradient * part).sum() for gradient, part in pairs]).sum()
            parts = torch.autograd.grad(slope, list(weights.values()))
        for name, part in zip(product, parts, strict=True):
            product[name] += part
    return product


def measure_curvature(
    model: nn.Module, images: Tensor, labels: Tensor, *, directions: tuple[Weights, ...] = (), count: int = 2
) -> Curvature:
    """Measure the largest eigenvalues of the Hessian by Lanczos iteration (ARPACK), and the curvature along directions.

    Args:
        model: Put into evaluation mode meanwhile.
        images: Normalised images (batch, channels, height, width).
        labels: int64 (batch,).
        directions: Directions whose curvature is measured.
        count: Number of eigenvalues, at least 1. About 20 vectors of the size of the weights are in memory.

    Raises:
        ConfigError: if `count` is below 1.
    """
    if count < 1:
        raise ConfigError(f"the number of eigenvalues must be at least 1, not {count}")
    with evaluation_mode(model):
        along = []
        for direction in directions:
            product = hessian_product(model, images, labels, vector=direction)
            dot = flatten(direction).double() @ flatten(product).double()
            along.append(float(dot / flatten(direction).double().square().sum()))
        values = _largest_eigenvalues(model, images, labels, count=count)
    return Curvature(tuple(sorted(values, reverse=True)), tuple(along))


def _largest_eigenvalues(model: nn.Module, images: Tensor, labels: Tensor, *, count: int) -> list[float]:
    """Return the eigenvalues that converge; the start of the iteration is always the same."""
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    weights = moving_weights(model)
    size = sum(weight.numel() for weight in weights.values())
    device = next(iter(weights.values())).device

    def multiply(vector: np.ndarray) -> np.ndarray:
        direction = unflatten(torch.from_numpy(np.asarray(vector, np.float32).ravel()).to(device), weights)
        return flatten(hessian_product(model, images, labels, vector=direction)).cpu().numpy()

    # scipy's annotations lack the arguments of a plain operator
    operator = LinearOperator(shape=(size, size), matvec=multiply, dtype=np.float32)  # pyright: ignore[reportCallIssue]
    start = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    try:
        values = eigsh(
            operator,
            k=min(count, size - 1),
            which="LA",
            v0=start,
            tol=TOLERANCE,  # pyright: ignore[reportArgumentType]  # a float, as documented
            maxiter=MAX_RESTARTS,
            return_eigenvectors=False,
        )
    except ArpackNoConvergence as error:
        values = error.eigenvalues
    return [float(value) for value in values]
