"""Muon for convolutional networks: PyTorch's Muon for the kernels of convolutions, AdamW for all else."""

from typing import Any

import torch
from torch import nn

MOMENTUM = "momentum_buffer"


class ConvMuon(torch.optim.Optimizer):
    """Momentum whose step for each kernel is orthogonal (Jordan et al., 2024, "Muon"), with AdamW for the rest.

    `torch.optim.Muon` takes matrices. A kernel is one of shape (out_channels, in_channels * height * width), as in
    the authors' CIFAR-10 training. The head, biases and batch normalisation learn with AdamW, as they recommend. One
    learning rate serves both, because Muon's step has the length of a usual step of AdamW (`match_rms_adamw`; Liu et
    al., 2025, "Muon is scalable for LLM training").

    Args:
        params: Parameters or groups of them, as for every optimizer of PyTorch.
        lr: Learning rate.
        betas: Muon's momentum, which is also AdamW's first beta, and AdamW's second beta.
        weight_decay: Share of the weights that a step removes, over the learning rate.
        nesterov: Whether Muon uses Nesterov's momentum.
    """

    def __init__(
        self,
        params: Any,
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.95, 0.999),
        weight_decay: float = 0.0,
        nesterov: bool = True,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self._kernels = [[p for p in group["params"] if p.dim() == 4] for group in self.param_groups]
        self._matrices = [[nn.Parameter(p.detach().flatten(1).clone()) for p in kernels] for kernels in self._kernels]
        others = [[p for p in group["params"] if p.dim() != 4] for group in self.param_groups]
        decays = [group["weight_decay"] for group in self.param_groups]
        self._muon = torch.optim.Muon(
            [{"params": own, "weight_decay": decay} for own, decay in zip(self._matrices, decays, strict=True)],
            lr=lr,
            momentum=betas[0],
            nesterov=nesterov,
            adjust_lr_fn="match_rms_adamw",
        )
        self._adamw = torch.optim.AdamW(
            [{"params": own, "weight_decay": decay} for own, decay in zip(others, decays, strict=True)],
            lr=lr,
            betas=betas,
        )
        self._adamw.state = self.state  # checkpoints store and restore the state of this optimizer

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Change every parameter that has a gradient; `closure` is called first if given, and its loss returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group, *inner in zip(self.param_groups, self._muon.param_groups, self._adamw.param_groups, strict=True):
            for other in inner:
                other["lr"] = group["lr"]
        pairs = [pair for own in zip(self._kernels, self._matrices, strict=True) for pair in zip(*own, strict=True)]
        for kernel, matrix in pairs:
            matrix.copy_(kernel.flatten(1))
            matrix.grad = None if kernel.grad is None else kernel.grad.flatten(1)
            momentum = self.state[kernel].get(MOMENTUM)
            self._muon.state[matrix] = {} if momentum is None else {MOMENTUM: momentum.flatten(1)}
        self._muon.step()
        self._adamw.step()
        for kernel, matrix in pairs:
            if kernel.grad is not None:
                kernel.copy_(matrix.view(kernel.shape))
                self.state[kernel][MOMENTUM] = self._muon.state[matrix][MOMENTUM].view(kernel.shape)
        return loss
