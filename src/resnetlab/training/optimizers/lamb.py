"""LAMB: Adam whose step for each layer is as long as a share of the layer's weights."""

from typing import Any

import torch
from torch import Tensor

EPSILON = 1e-6
"""Added to the root of the second moment (You et al., 2020, and timm's `Lamb`)."""


class Lamb(torch.optim.Optimizer):
    """Layer-wise adaptive moments for large batches (You et al., 2020, Algorithm 2), as timm's `Lamb` does it.

    For each parameter: u = m / (sqrt(v) + eps) + weight_decay * w, with the moments of Adam corrected for their start,
    then w = w - lr * |w| / |u| * u. The factor |w| / |u| is 1 where either norm is 0.

    Differs: as in timm, parameters without weight decay (biases, batch normalisation) have no factor. timm's class
    also clips the gradients to a norm of 1; here that is `Recipe.clip_grad_norm`.

    Args:
        params: Parameters or groups of them, as for every optimizer of PyTorch.
        lr: Learning rate.
        betas: Decay of the first and second moment.
        weight_decay: Factor on the weights in u, at least 0.
    """

    def __init__(
        self, params: Any, *, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Change every parameter that has a gradient; `closure` is called first if given, and its loss returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.sub_(self._direction(parameter, group), alpha=group["lr"])
        return loss

    def _direction(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        """Update the moments of a parameter and return its step at a learning rate of 1."""
        state, (beta1, beta2), gradient = self.state[parameter], group["betas"], parameter.grad
        assert gradient is not None
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        num_steps = state["step"].item()
        state["exp_avg"].lerp_(gradient, 1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        root = (state["exp_avg_sq"] / (1 - beta2**num_steps)).sqrt_().add_(EPSILON)
        direction = (state["exp_avg"] / (1 - beta1**num_steps)).div_(root)
        if group["weight_decay"] == 0:
            return direction
        direction.add_(parameter, alpha=group["weight_decay"])
        norms = torch.linalg.vector_norm(parameter), torch.linalg.vector_norm(direction)
        both = (norms[0] > 0) & (norms[1] > 0)
        return direction.mul_(torch.where(both, norms[0] / norms[1], 1.0))
