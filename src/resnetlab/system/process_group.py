"""The processes that work on one thing together, as torchrun starts them. Alone, one needs no torch."""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

from resnetlab.serialization import ConfigError

T = TypeVar("T")

HOW = "start several processes by torchrun, or unset WORLD_SIZE for one"
"""What works where the variables of the environment do not."""


class LostProcessError(RuntimeError):
    """A process of the run is gone, or does not answer; the message says which."""


@dataclass(frozen=True)
class ProcessGroup:
    """Which of them this is, and what they tell each other; all of them call every method, in the same order."""

    rank: int = 0
    """Number of this process, from 0."""
    size: int = 1
    naming: Callable[[], AbstractContextManager[None]] = field(default=nullcontext, repr=False, compare=False)
    """A context in which an error that means that another process is lost becomes one that names it."""

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def gather(self, found: T) -> list[T]:
        """Return what every process found, in the order of ranks, in each of them."""
        if self.size == 1:
            return [found]
        import torch.distributed as dist

        everything: list[T] = [found] * self.size
        dist.all_gather_object(everything, found)
        return everything

    def sums(self, numbers: Sequence[float]) -> list[float]:
        """Return the sums over all processes, in double precision; one that is not finite stays so."""
        if self.size == 1:
            return list(numbers)
        import torch
        import torch.distributed as dist

        total = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def from_first(self, work: Callable[[], T]) -> T:
        """Have the first process do something; return what came of it, or raise its error, in all of them."""
        if self.size == 1:
            return work()
        import torch.distributed as dist

        told: list[Any] = [None, None]
        if self.is_first:
            try:
                told[0] = work()
            except Exception as error:
                told[1] = error
        dist.broadcast_object_list(told, src=0)
        if told[1] is not None:
            raise told[1]
        return told[0]

    def part(self, length: int) -> slice:
        """Return which of `length` things in a row are this process's: as many as the others', or one less."""
        return slice(length * self.rank // self.size, length * (self.rank + 1) // self.size)


def process_group_from_env() -> ProcessGroup:
    """Return which process of how many torchrun's variables say that this is; without them it is alone.

    Raises:
        ConfigError: for variables that are missing, are no numbers or do not fit together.
    """
    size = _number("WORLD_SIZE", 1)
    if size == 1:
        return ProcessGroup()
    rank = _number("RANK")
    _number("MASTER_PORT")
    if "MASTER_ADDR" not in os.environ:
        raise ConfigError(f"WORLD_SIZE is {size} and MASTER_ADDR is missing; {HOW}")
    if not 0 <= rank < size:
        raise ConfigError(f"RANK is {rank} and WORLD_SIZE {size}: ranks go from 0 to {size - 1}; {HOW}")
    return ProcessGroup(rank, size)


def local_world_size() -> int:
    """Return how many processes of the run share this machine.

    Raises:
        ConfigError: where LOCAL_WORLD_SIZE is no number.
    """
    return _number("LOCAL_WORLD_SIZE", 1)


def restart_count() -> int:
    """Return how often torchrun has started all processes again after one was lost.

    Raises:
        ConfigError: where TORCHELASTIC_RESTART_COUNT is no number.
    """
    return _number("TORCHELASTIC_RESTART_COUNT", 0)


def _number(name: str, otherwise: int | None = None) -> int:
    """Return a variable of the environment, at least 0; 1 where it counts processes."""
    least = 1 if name.endswith("WORLD_SIZE") else 0
    text = os.environ.get(name, otherwise)
    if text is None:
        raise ConfigError(f"WORLD_SIZE is {os.environ['WORLD_SIZE']} and {name} is missing; {HOW}")
    if not str(text).strip().isdecimal() or int(text) < least:
        raise ConfigError(f"{name} must be a whole number, at least {least}, not {text!r}; {HOW}")
    return int(text)
