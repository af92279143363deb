"""What torchrun gives us, in one place: which process this is, how many there are, and what each of them found."""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The processes that work on one thing together."""

    rank: int = 0
    """Number of this process, from 0."""
    size: int = 1

    def gather(self, found: T) -> list[T]:
        """Return what every process found, in the order of ranks, in each of them."""
        if self.size == 1:
            return [found]
        everything: list[T] = [found] * self.size
        dist.all_gather_object(everything, found)
        return everything


@contextmanager
def joined() -> Iterator[World]:
    """Join the processes that torchrun started; without it there is this one alone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    # Imported once the group is there, this module keeps it in ten default arguments, and then its threads outlive the
    # interpreter: "terminate called without an active exception", now and then.
    importlib.import_module("torch.distributed.nn.functional")
    dist.init_process_group("gloo")  # what is exchanged are a few numbers of each sample
    try:
        yield World(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()
