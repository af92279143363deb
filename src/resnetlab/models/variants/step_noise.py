"""Random numbers of a training step, as a function of the step's key, the block, and the image's position in the batch.

A run is then the same after a resume, and for any number of processes. Salmon et al. (2011), "Parallel Random Numbers:
As Easy as 1, 2, 3", describe such generators without state; the mixing function is that of SplitMix64 (Steele et al.,
2014, "Fast Splittable Pseudorandom Number Generators", Figure 17).
"""

import torch
from torch import Tensor

INCREMENT, FIRST, SECOND = (value - (1 << 64) for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
"""The constants of SplitMix64 as signed numbers; products wrap."""
BITS = 24
"""Bits of a random number: those of an fp32 fraction."""


class StepNoise:
    """The random numbers of one block.

    `set` gives the step; without it, each pass takes a key from PyTorch's global generator, as `nn.Dropout` does.
    """

    def __init__(self) -> None:
        self.block = 0
        self._state: Tensor | None = None  # not a buffer: DDP would give every process the first one's position

    @property
    def is_set(self) -> bool:
        """Whether the numbers are those of a given step."""
        return self._state is not None

    def set(self, key: int, first: int, device: torch.device) -> None:
        """Set the key of a step, and the position in the batch of the first image of the next pass."""
        values = torch.tensor([key, first])
        if self._state is None:
            self._state = values.to(device)
        else:
            self._state.copy_(values)  # a CUDA graph reads this tensor again

    def block_uniform(self, x: Tensor) -> Tensor:
        """Return one number from 0 to below 1 for the whole batch: a tensor of shape () on the device of `x`."""
        return _uniform(_mix(self._read(x)[0] + self.block))

    def uniform(self, x: Tensor) -> Tensor:
        """Return numbers from 0 to below 1 in the shape of `x`; images are its first dimension."""
        key, first = self._read(x)
        images = _mix(_mix(key + self.block) + first + torch.arange(len(x), device=x.device))
        elements = torch.arange(x[0].numel(), device=x.device)
        return _uniform(_mix(images[:, None] + elements)).view(x.shape)

    def _read(self, x: Tensor) -> Tensor:
        return torch.randint(1 << 62, (2,)).to(x.device) if self._state is None else self._state


def _mix(x: Tensor) -> Tensor:
    """Return SplitMix64's output for each int64 number."""
    x = x + INCREMENT
    x = (x ^ _shift_right(x, 30)) * FIRST
    x = (x ^ _shift_right(x, 27)) * SECOND
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Shift int64 numbers without their sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _uniform(x: Tensor) -> Tensor:
    return _shift_right(x, 64 - BITS).float() * 2.0**-BITS
