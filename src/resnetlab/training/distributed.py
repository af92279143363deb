"""Training under torchrun: join the process group, average gradients, and name the processes that are lost."""

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
"""Seconds that a process waits for the others before it gives up."""
CALL_S = 3.0
"""Seconds in which the remaining processes report that they are alive."""
GLOO_MESSAGES = (
    "gloo/transport",
    "connection closed by peer",
    "connection reset by peer",
    "broken pipe",
    "timed out waiting",
    "application timeout",
)
"""Parts of the messages of gloo's errors, which have no class of their own."""
SIDE = 32
"""Side in pixels of an image that every network of this package accepts."""

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
    """Join the processes that torchrun started; without torchrun, yield a group of one process.

    Args:
        timeout_s: Seconds to wait for a process that does not answer.

    Raises:
        ConfigError: if the environment has only some of torchrun's variables.
        LostProcessError: if another process is lost while the body runs.
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
    name_lost = partial(_name_lost_processes, store, rank, size, timeout_s)
    try:
        with name_lost():
            yield ProcessGroup(rank, size, name_lost)
    except BaseException as error:
        _clear_frames(error)
        raise
    finally:
        _destroy_group()


def pick_device(device: str) -> torch.device:
    """Return the device for `auto`, `cpu` or `cuda`; each process of torchrun gets its own GPU.

    Raises:
        ConfigError: if there is no GPU, or fewer GPUs than processes.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda: PyTorch finds none on this machine; use cpu or auto")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return torch.device(device)
    number, available = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= available:
        raise ConfigError(
            f"process {number} of this machine finds {available} GPUs; use torchrun --nproc-per-node {available}"
        )
    torch.cuda.set_device(number)  # the device of "cuda", and of NCCL
    return torch.device(device, number)


def wrap_ddp(model: ResNet, process_group: ProcessGroup, image_size: int = SIDE) -> nn.Module:
    """Return the module of the forward pass: the network, wrapped so that several processes average gradients.

    A module of the user's own may accept images of `image_size` only.

    DDP sums the parameters that learn at this moment, so wrap again when others learn. The statistics of batch
    normalisation are those of the first process, unless SyncBN is used.
    """
    if process_group.size == 1 or not any(parameter.requires_grad for parameter in model.parameters()):
        return model
    devices = [model.fc.weight.device] if model.fc.weight.is_cuda else None
    network = DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)
    _warm_up_ddp(network, model, image_size)
    return network


def _warm_up_ddp(network: nn.Module, model: ResNet, image_size: int) -> None:
    """Run one forward and backward pass, and restore the network.

    After the first backward pass PyTorch rebuilds the buckets in which it sums gradients. The position in a bucket
    decides the order in which three processes add a number. Without this pass, the first step of a resumed run would
    round differently from that of an uninterrupted one.
    """
    buffers = list(model.buffers())
    before = [buffer.clone() for buffer in buffers]
    images = torch.zeros(2, model.config.in_channels, image_size, image_size, device=model.fc.weight.device)
    network(images).sum().backward()
    model.zero_grad()
    for buffer, value in zip(buffers, before, strict=True):
        buffer.copy_(value)


def broadcast_bn_statistics(model: ResNet, process_group: ProcessGroup) -> None:
    """Copy the BN statistics of the first process to all processes, so that they evaluate the same network."""
    if process_group.size > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def _clear_frames(error: BaseException | None) -> None:
    """Clear the local variables of the functions that an error ended, above all DDP modules.

    A DDP module holds the process group. If it is the last to hold it, its destructor waits for gloo's threads while it
    holds the GIL. One of those threads may need the GIL to free the tensors of its last collective: a deadlock.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def _cut_tracebacks(error: BaseException | None) -> None:
    """Drop the frames of the functions that an error ended: variables of closures outlive cleared frames."""
    while error is not None:
        trace = error.__traceback__
        while trace is not None:
            trace.tb_next, trace = None, trace.tb_next
        error = error.__context__


def _destroy_group() -> None:
    """Destroy the process group; its connections close unless a DDP module is still referenced."""
    gc.collect()
    if dist.is_initialized():
        dist.destroy_process_group()


def _is_lost_process(error: RuntimeError) -> bool:
    """Return whether gloo or NCCL raised an error because another process is gone or does not answer."""
    message = str(error).lower()
    return isinstance(error, dist.DistError) or (
        type(error) is RuntimeError and any(part in message for part in GLOO_MESSAGES)
    )


@contextmanager
def _name_lost_processes(store: Store, rank: int, size: int, timeout_s: float) -> Iterator[None]:
    """Turn an error that a lost process caused into one that names the process, and destroy the group."""
    try:
        yield
    except RuntimeError as error:
        if not _is_lost_process(error):
            raise
        raise LostProcessError(_find_lost(store, rank, size, timeout_s=timeout_s, error=error)) from error


def _find_lost(store: Store, rank: int, size: int, *, timeout_s: float, error: RuntimeError) -> str:
    """Report in torchrun's store that this process is alive, and return a line about those that did not report.

    Processes sum in a ring, so only its two neighbours notice a lost process at once. The others notice when these
    neighbours close their connections. So every process closes its connections first and then reads the store.
    """
    again = "torchrun --max-restarts starts all of them again from the last checkpoint"
    try:
        store.set(f"here/{rank}", "1")
        _clear_frames(error)
        _cut_tracebacks(error)
        _destroy_group()
        time.sleep(CALL_S)
        lost = [other for other in range(size) if not store.check([f"here/{other}"])]
    except RuntimeError:
        return f"the store that torchrun keeps for its processes is gone, and with it the machine of the first; {again}"
    if not lost:
        return f"the connection between the processes broke, or one was silent for {timeout_s:g} s; {again}"
    if len(lost) == 1:
        return f"process {lost[0]} of {size} is gone or does not answer; {again}"
    return f"processes {', '.join(map(str, lost))} of {size} are gone or do not answer; {again}"
