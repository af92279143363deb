"""What torchrun gives us, in one place: joining, a network that averages gradients, and who was lost."""

import gc
import importlib
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from resnetlab.config import ConfigError
from resnetlab.models.resnet import ResNet
from resnetlab.world import World

PATIENCE_S = 600.0
"""Seconds that processes wait for one another before they give up."""
CALL_S = 3.0
"""Seconds in which those that are left say that they are."""

__all__ = ["World", "LostProcessError", "joined", "pick_device", "same_statistics", "shared_network"]


class LostProcessError(RuntimeError):
    """A process of the run is gone, or does not answer; the message says which."""


@contextmanager
def joined(patience_s: float = PATIENCE_S) -> Iterator[World]:
    """Join the processes that torchrun started; without it there is this one alone.

    Raises:
        LostProcessError: where one of them is lost while they work together.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    # Imported once the group is there, this module keeps it in ten default arguments, and then its threads outlive the
    # interpreter: "terminate called without an active exception", now and then.
    importlib.import_module("torch.distributed.nn.functional")
    store, rank, size = next(iter(rendezvous("env://", timeout=timedelta(seconds=patience_s))))
    # torchrun's own store may outlive an attempt; addresses of processes that are gone must not be found in it.
    store = PrefixStore(f"{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}-of-{size}", store)
    kinds = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(kinds, store=PrefixStore("group", store), rank=rank, world_size=size,
                            timeout=timedelta(seconds=patience_s))  # fmt: skip
    try:
        yield World(rank, size)
    except BaseException as error:
        _forget(error)
        if isinstance(error, RuntimeError) and _is_loss(error):
            raise LostProcessError(_who_is_lost(store, rank, size, patience_s)) from error
        raise
    finally:
        gc.collect()
        dist.destroy_process_group()


def pick_device(device: str) -> torch.device:
    """Return the device that `auto`, `cpu` or `cuda` means here; processes of torchrun have a GPU of their own each.

    Raises:
        ConfigError: for `cuda` where there is none, or one less than processes.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda: PyTorch finds none on this machine; use cpu or auto")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return torch.device(device)
    number, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= there:
        raise ConfigError(f"process {number} of this machine finds {there} GPUs; use torchrun --nproc-per-node {there}")
    torch.cuda.set_device(number)  # of what is sent to "cuda", and NCCL's
    return torch.device(device, number)


def shared_network(model: ResNet, world: World) -> nn.Module:
    """Return what the forward pass goes through: the network itself, or wrapped so that gradients are averaged.

    Only parameters that learn now are summed, so it is made anew where that changes. Statistics of batch normalisation
    are those of the first process, unless they are taken over all.
    """
    if world.size == 1 or not any(parameter.requires_grad for parameter in model.parameters()):
        return model
    devices = [model.fc.weight.device] if model.fc.weight.is_cuda else None
    return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)


def same_statistics(model: ResNet, world: World) -> None:
    """Give every process the first one's statistics of batch normalisation, by which the network will be judged."""
    if world.size > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def _forget(error: BaseException | None) -> None:
    """Let go of what the functions that an error broke off had at hand, above all of networks that average gradients.

    Such a network keeps the group. If it is the last to do so, Python's lock is held while the group waits for gloo's
    threads to end; and one of these may want that very lock, to drop the tensors of the last thing it gathered.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def _is_loss(error: RuntimeError) -> bool:
    """Say whether an error is what gloo or NCCL raise when another process is gone or silent."""
    words = str(error).lower()
    said = ("connection closed by peer", "connection reset", "timed out", "socket", "gloo", "nccl", "broken pipe")
    return isinstance(error, dist.DistError) or any(word in words for word in said)


def _who_is_lost(store: Store, rank: int, size: int, patience_s: float) -> str:
    """Have those that are left say so, and return a line on the others."""
    again = "torchrun --max-restarts starts all of them again from the last checkpoint"
    try:
        store.set(f"here/{rank}", "1")
        time.sleep(CALL_S)
        lost = [other for other in range(size) if not store.check([f"here/{other}"])]
    except RuntimeError:
        return f"the store that torchrun keeps for its processes is gone, and with it the machine of the first; {again}"
    if not lost:
        return f"the connection between the processes broke, or one was silent for {patience_s:g} s; {again}"
    who = f"process {lost[0]}" if len(lost) == 1 else f"processes {', '.join(map(str, lost))}"
    return f"{who} of {size} is gone or does not answer; {again}"
