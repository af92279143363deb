"""The execution of a step: precision, memory layout, compilation, CUDA graph and threads."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnetlab.config import ConfigError, RunConfig
from resnetlab.system.tf32 import float32_products
from resnetlab.training.execution.cuda_graph import GraphedForward
from resnetlab.training.loss import LossFunction, num_wrong

TF32_CAPABILITY = (8, 0)
"""Compute capability from which NVIDIA GPUs have TF32 (Ampere)."""

P = ParamSpec("P")
R = TypeVar("R")

Forward = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Images and labels to the mean loss and the number of wrong answers, both tensors; `backward()` of the loss gives the
gradients to the parameters."""


@dataclass(frozen=True)
class Execution:
    """Precision, layout and compilation of every step of a run; recorded, and restored when the run is resumed."""

    precision: str = "fp32"
    """Precision of convolutions and matrix products: `fp32`, `tf32` (NVIDIA GPUs from Ampere on) or `bf16`."""
    layout: str = "channels_last"
    compile: bool = False
    cuda_graph: bool = False
    """Whether forward and backward pass are replayed from a CUDA graph."""
    threads: int = 0
    """Threads of PyTorch; 0 leaves the number that it has chosen."""
    images_per_s: dict[str, float] = field(default_factory=dict)
    """Measured speeds by `name`; empty if nothing was measured."""

    @property
    def name(self) -> str:
        """Short name, such as `bf16 + compile`."""
        words = [self.precision]
        words += ["NCHW"] if self.layout == "contiguous" else []
        words += ["compile"] if self.compile else []
        words += ["CUDA graph"] if self.cuda_graph else []
        words += [f"{self.threads} thread{'s' * (self.threads > 1)}"] if self.threads else []
        return " + ".join(words)

    def as_json(self) -> dict[str, Any]:
        """Return the entry of record and checkpoint; `cuda_graph` and `threads` only where they are used."""
        values = dataclasses.asdict(self)
        for name in ("cuda_graph", "threads"):
            if not values[name]:
                del values[name]
        return values

    def float32_products(self) -> AbstractContextManager[None]:
        """Return a context in which products of fp32 numbers have this precision on a GPU."""
        return float32_products(tf32=self.precision == "tf32")

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout as a PyTorch memory format."""
        return torch.channels_last if self.layout == "channels_last" else torch.contiguous_format

    def describe(self) -> str:
        """Return one line such as `bf16 + compile: 1,090 images/s; fp32: 515`."""
        if self.name not in self.images_per_s:
            return self.name
        others = [f"{name}: {speed:,.0f}" for name, speed in self.images_per_s.items() if name != self.name]
        return "; ".join([f"{self.name}: {self.images_per_s[self.name]:,.0f} images/s", *others])

    def use_threads(self) -> None:
        """Set the number of threads of PyTorch in this thread, if it was selected."""
        if self.threads and self.threads != torch.get_num_threads():
            torch.set_num_threads(self.threads)


def make_forward(model: nn.Module, execution: Execution, loss: LossFunction = F.cross_entropy) -> Forward:
    """Return a function that computes the loss (always in fp32) and the errors of a batch as `execution` says.

    TF32 is a setting of the process: call the function, and `backward` of its loss, in `Execution.float32_products`.
    """
    device_type = next(model.parameters()).device.type

    def forward(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if execution.precision == "bf16":
            # A graph must compute the 16-bit weights anew in each replay, not take those of an earlier pass.
            with torch.autocast(device_type, torch.bfloat16, cache_enabled=not execution.cuda_graph):
                logits = model(images)
        else:
            logits = model(images)
        return loss(logits.float(), labels), num_wrong(logits, labels)

    computed: Forward = forward
    if execution.compile:
        # On a GPU a small network waits for its launches; PyTorch's own graphs there, if ours are not used.
        own_graphs = device_type == "cuda" and not execution.cuda_graph
        computed = torch.compile(forward, mode="reduce-overhead" if own_graphs else "default")
    return GraphedForward(model, computed) if execution.cuda_graph else computed


def in_own_precision(method: Callable[P, R]) -> Callable[P, R]:
    """Decorate a method of a trainer: fp32 products in it have the precision of the trainer's execution."""

    @functools.wraps(method)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        trainer: Any = args[0]
        with trainer.execution.float32_products():
            return method(*args, **kwargs)

    return run


@contextmanager
def kept_threads() -> Iterator[None]:
    """Restore PyTorch's number of threads afterwards: an execution sets it for the whole process."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def default_execution(config: RunConfig) -> Execution:
    """Return the configured execution, with the defaults in place of `auto`; nothing is measured."""
    return Execution(
        precision="fp32" if config.precision == "auto" else config.precision,
        layout="channels_last" if config.layout == "auto" else config.layout,
        compile=config.compile == "on",
        cuda_graph=config.compile == "cuda-graph",
        threads=config.threads or 0,
    )


def with_configured(execution: Execution, config: RunConfig) -> Execution:
    """Return an execution with the options that a configuration sets, in place of those that were chosen before."""
    changes: dict[str, Any] = {}
    if config.precision != "auto":
        changes["precision"] = config.precision
    if config.layout != "auto":
        changes["layout"] = config.layout
    if config.compile != "auto":
        changes |= {"compile": config.compile == "on", "cuda_graph": config.compile == "cuda-graph"}
    if config.threads is not None:
        changes["threads"] = config.threads
    return dataclasses.replace(execution, **changes)


def check_execution(execution: Execution, device: torch.device, *, is_shared: bool = False) -> None:
    """Raise unless a device can compute steps in this way.

    Args:
        execution: As configured, or as a checkpoint stores it.
        device: The device of the run.
        is_shared: Whether a step has several processes or micro-batches, whose gradients a CUDA graph does not sum.

    Raises:
        ConfigError: naming the option and what would work.
    """
    on_gpu = device.type == "cuda"
    if execution.precision == "tf32" and not (on_gpu and torch.cuda.get_device_capability(device) >= TF32_CAPABILITY):
        name = torch.cuda.get_device_name(device) if on_gpu else "a processor"
        raise ConfigError(f"precision tf32 is of NVIDIA GPUs from Ampere on, not of {name}; use fp32 or bf16")
    if execution.cuda_graph and not on_gpu:
        raise ConfigError("compile cuda-graph needs an NVIDIA GPU; use on, off or auto")
    if execution.cuda_graph and is_shared:
        raise ConfigError("compile cuda-graph is for one process without --grad-accum-steps; use on, off or auto")
