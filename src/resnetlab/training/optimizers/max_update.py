"""A limit on the length of each layer's step: the control that tells whether long steps are why a network fails.

At random weights, the gradients of the first layers of a deep plain network with batch normalisation are hundreds of
times its weights (Yang et al., 2019, "A mean field theory of batch normalization"). The first step then overwrites
these layers. With the limit no step does, and what remains of the failure has another cause.
"""

import torch
from torch import Tensor


@torch.no_grad()
def step_with_max_update(optimizer: torch.optim.Optimizer, max_update: float) -> None:
    """Take an optimizer step, then shorten the change of every kernel that is longer than the limit.

    A kernel (a parameter with two dimensions or more) changes by at most `max_update` times the norm of its weights
    before the step. Its momentum is multiplied by the same factor, so that one long gradient does not fill the limit
    for many steps. Biases, the scales and shifts of batch normalisation, and kernels that are zero have no limit.

    Args:
        optimizer: Its gradients and learning rates are set.
        max_update: Share of the norm of a kernel, above 0.
    """
    kernels = [
        parameter
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.dim() > 1 and parameter.grad is not None
    ]
    before = [kernel.clone() for kernel in kernels]
    optimizer.step()
    factors = _factors(kernels, before, max_update)
    for kernel, old, factor in zip(kernels, before, factors, strict=True):
        if factor < 1:
            kernel.copy_(old + factor * (kernel - old))
            momentum = optimizer.state[kernel].get("momentum_buffer")
            if momentum is not None:
                momentum.mul_(factor)


def _factors(kernels: list[Tensor], before: list[Tensor], max_update: float) -> list[float]:
    """Return the factor that shortens each change to the limit; 1 for a change within it, or of a zero kernel."""
    if not kernels:
        return []
    changes = torch.stack([torch.linalg.vector_norm(kernel - old) for kernel, old in zip(kernels, before, strict=True)])
    norms = torch.stack([torch.linalg.vector_norm(old) for old in before])
    factors = torch.where(norms > 0, max_update * norms / changes, 1.0)
    return factors.nan_to_num(1.0).clamp_max(1.0).tolist()
