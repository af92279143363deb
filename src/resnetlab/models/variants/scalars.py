"""Learnt numbers that scale or shift a whole map."""

import torch
from torch import Tensor, nn


class Scale(nn.Module):
    """A learnt factor on a map."""

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.initial = initial
        self.value = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the factor to its initial value."""
        nn.init.constant_(self.value, self.initial)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map times the factor."""
        return x * self.value


class Shift(nn.Module):
    """A learnt number, 0 at first, that is added to a map."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Return the map plus the number."""
        return x + self.value
