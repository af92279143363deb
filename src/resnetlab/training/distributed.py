"""What torchrun gives us, in one place: joining, a network that averages gradients, and who was lost."""

import gc
import importlib
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from resnetlab.config import ConfigError
from resnetlab.models.resnet import ResNet
from resnetlab.system.process_group import LostProcessError, ProcessGroup, process_group_from_env

TIMEOUT_S = 600.0
"""Seconds that processes wait for one another before they give up."""
CALL_S = 3.0
"""Seconds in which those that are left say that they are."""
SAID = (
    "gloo/transport",
    "connection closed by peer",
    "connection reset by peer",
    "broken pipe",
    "timed out waiting",
    "application timeout",
)
"""What gloo says in an error that has no class of its own."""
SIDE = 32
"""Pixels a side that every network takes."""

__all__ = [
    "ProcessGroup",
    "LostProcessError",
    "join_process_group",
    "pick_device",
    "broadcast_bn_statistics",
    "wrap_ddp",
]


@contextmanager
def join_process_group(timeout_s: float = TIMEOUT_S) -> Iterator[ProcessGroup]:
    """Join the processes that torchrun started; without it there is this one alone.

    Raises:
        ConfigError: where the environment says half of what torchrun would say.
        LostProcessError: where one of them is lost while they work together.
    """
    if process_group_from_env().size == 1:
        yield ProcessGroup()
        return
    # Imported once the group is there, this module keeps it in ten default arguments, and then its threads outlive the
    # interpreter: "terminate called without an active exception", now and then.
    importlib.import_module("torch.distributed.nn.functional")
    store, rank, size = next(iter(rendezvous("env://", timeout=timedelta(seconds=timeout_s))))
    # torchrun's own store may outlive an attempt; addresses of processes that are gone must not be found in it.
    store = PrefixStore(f"{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}-of-{size}", store)
    kinds = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(
        kinds, store=PrefixStore("group", store), rank=rank, world_size=size, timeout=timedelta(seconds=timeout_s)
    )
    naming = partial(_naming, store, rank, size, timeout_s)
    try:
        with naming():
            yield ProcessGroup(rank, size, naming)
    except BaseException as error:
        _forget(error)
        raise
    finally:
        _leave()


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


def wrap_ddp(model: ResNet, world: ProcessGroup) -> nn.Module:
    """Return what the forward pass goes through: the network itself, or wrapped so that gradients are averaged.

    Only parameters that learn now are summed, so it is made anew where that changes. Statistics of batch normalisation
    are those of the first process, unless they are taken over all.
    """
    if world.size == 1 or not any(parameter.requires_grad for parameter in model.parameters()):
        return model
    devices = [model.fc.weight.device] if model.fc.weight.is_cuda else None
    network = DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)
    _settle(network, model)
    return network


def _settle(network: nn.Module, model: ResNet) -> None:
    """Go forward and back once and forget what came of it: the network stays as it was.

    After the first gradients have come, PyTorch lays them out anew for the sums of all later steps, and where a number
    lies decides in which order three processes add it up. A run that is continued must not take its first step
    otherwise than the unbroken one did.
    """
    buffers = list(model.buffers())
    before = [buffer.clone() for buffer in buffers]
    images = torch.zeros(2, model.config.in_channels, SIDE, SIDE, device=model.fc.weight.device)
    network(images).sum().backward()
    model.zero_grad()
    for buffer, value in zip(buffers, before, strict=True):
        buffer.copy_(value)


def broadcast_bn_statistics(model: ResNet, world: ProcessGroup) -> None:
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


def _cut(error: BaseException | None) -> None:
    """Let go of the functions that a loss broke off: what a closure knows stays, though its frame was cleared."""
    while error is not None:
        trace = error.__traceback__
        while trace is not None:
            trace.tb_next, trace = None, trace.tb_next
        error = error.__context__


def _leave() -> None:
    """Leave the group; its connections close, unless somebody still has a network that averages gradients."""
    gc.collect()
    if dist.is_initialized():
        dist.destroy_process_group()


def _is_loss(error: RuntimeError) -> bool:
    """Say whether an error is what gloo or NCCL raise when another process is gone or silent, and none of our own."""
    words = str(error).lower()
    return isinstance(error, dist.DistError) or (type(error) is RuntimeError and any(said in words for said in SAID))


@contextmanager
def _naming(store: Store, rank: int, size: int, timeout_s: float) -> Iterator[None]:
    """Make of an error of the body that means that another process is lost one that says which; the group is left."""
    try:
        yield
    except RuntimeError as error:
        if not _is_loss(error):
            raise
        raise LostProcessError(_who_is_lost(store, rank, size, timeout_s, error)) from error


def _who_is_lost(store: Store, rank: int, size: int, timeout_s: float, error: RuntimeError) -> str:
    """Have those that are left say so, and return a line on the others.

    They sum in a ring, in which only its neighbours notice at once that one is gone. The others wait for these, and
    notice when these leave; so they leave before they look who is there.
    """
    again = "torchrun --max-restarts starts all of them again from the last checkpoint"
    try:
        store.set(f"here/{rank}", "1")
        _forget(error)
        _cut(error)
        _leave()
        time.sleep(CALL_S)
        lost = [other for other in range(size) if not store.check([f"here/{other}"])]
    except RuntimeError:
        return f"the store that torchrun keeps for its processes is gone, and with it the machine of the first; {again}"
    if not lost:
        return f"the connection between the processes broke, or one was silent for {timeout_s:g} s; {again}"
    if len(lost) == 1:
        return f"process {lost[0]} of {size} is gone or does not answer; {again}"
    return f"processes {', '.join(map(str, lost))} of {size} are gone or do not answer; {again}"
