"""The processes that work on one thing together, as torchrun starts them. Alone, one needs no torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """Which of them this is, and what they tell each other; all of them call every method, in the same order."""

    rank: int = 0
    """Number of this process, from 0."""
    size: int = 1

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
