"""The processes of one distributed job, as torchrun starts them. A job of one process does not import PyTorch."""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

from resnetlab.serialization import ConfigError

T = TypeVar("T")

REMEDY = "start several processes with torchrun, or unset WORLD_SIZE to run one"
"""The end of each error message about torchrun's environment variables."""


class LostProcessError(RuntimeError):
    """A process of the job has died or does not respond; the message gives its rank."""


@dataclass(frozen=True)
class ProcessGroup:
    """This process's rank, and the collectives. All processes must call each collective, in the same order."""

    rank: int = 0
    """Rank of this process, from 0."""
    size: int = 1
    """Number of processes."""
    name_lost_processes: Callable[[], AbstractContextManager[None]] = field(
        default=nullcontext, repr=False, compare=False
    )
    """A context that replaces errors caused by the loss of another process with a `LostProcessError`."""

    @property
    def is_first(self) -> bool:
        """Whether this process has rank 0, which alone prints and writes files."""
        return self.rank == 0

    def all_gather(self, value: T) -> list[T]:
        """Return the values of all processes, in the order of ranks, in every process."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[T] = [value] * self.size
        dist.all_gather_object(values, value)
        return values

    def all_reduce_sum(self, numbers: Sequence[float]) -> list[float]:
        """Return each number's sum over all processes, in double precision. Values that are not finite propagate."""
        if self.size == 1:
            return list(numbers)
        import torch
        import torch.distributed as dist

        total = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def run_on_first(self, work: Callable[[], T]) -> T:
        """Run a function in the process with rank 0; return its result, or raise its exception, in every process."""
        if self.size == 1:
            return work()
        import torch.distributed as dist

        outcome: list[Any] = [None, None]
        if self.is_first:
            try:
                outcome[0] = work()
            except Exception as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def local_slice(self, length: int) -> slice:
        """Return this process's slice of `length` items. The slices are contiguous, and differ by at most one item."""
        return slice(length * self.rank // self.size, length * (self.rank + 1) // self.size)


def process_group_from_env() -> ProcessGroup:
    """Return the rank and size from torchrun's environment variables; without them, a group of one process.

    Raises:
        ConfigError: If a variable is missing or not a number, or if the variables contradict each other.
    """
    size = _env_number("WORLD_SIZE", 1)
    if size == 1:
        return ProcessGroup()
    rank = _env_number("RANK")
    _env_number("MASTER_PORT")
    if "MASTER_ADDR" not in os.environ:
        raise ConfigError(f"WORLD_SIZE is {size} and MASTER_ADDR is missing; {REMEDY}")
    if not 0 <= rank < size:
        raise ConfigError(f"RANK is {rank} and WORLD_SIZE {size}: ranks go from 0 to {size - 1}; {REMEDY}")
    return ProcessGroup(rank, size)


def local_world_size() -> int:
    """Return the number of the job's processes on this machine.

    Raises:
        ConfigError: If LOCAL_WORLD_SIZE is not a number.
    """
    return _env_number("LOCAL_WORLD_SIZE", 1)


def restart_count() -> int:
    """Return how often torchrun has restarted all processes after the loss of one.

    Raises:
        ConfigError: If TORCHELASTIC_RESTART_COUNT is not a number.
    """
    return _env_number("TORCHELASTIC_RESTART_COUNT", 0)


def _env_number(name: str, default: int | None = None) -> int:
    """Return an environment variable as a number of at least 0, or of at least 1 for a count of processes."""
    minimum = 1 if name.endswith("WORLD_SIZE") else 0
    text = os.environ.get(name, default)
    if text is None:
        raise ConfigError(f"WORLD_SIZE is {os.environ['WORLD_SIZE']} and {name} is missing; {REMEDY}")
    if not str(text).strip().isdecimal() or int(text) < minimum:
        raise ConfigError(f"{name} must be a whole number, at least {minimum}, not {text!r}; {REMEDY}")
    return int(text)
