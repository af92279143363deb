"""The execution of a step: precision, memory layout, compilation, CUDA graph; measured and selected in long runs.

Longer than 300 lines because the candidates, their measurement and their refusals belong together.
"""

import contextlib
import copy
import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnetlab.config import ConfigError, RunConfig
from resnetlab.models.resnet import ResNet
from resnetlab.system.tf32 import float32_products
from resnetlab.training.cuda_graph import GraphedForward

LONG_RUN_S = 600
"""Shorter runs, in seconds, are not measured: they use fp32, channels last and no compilation."""

COMPILE_PAYS_S = 1800
"""Compilation takes about a minute, so it is tried only if more than this is left to run, in seconds."""

ASSUMED_MACS_PER_S = 5e10
"""Speed that the first estimate of a run's time assumes: a slow machine, so that a run is more likely measured."""

WORTHWHILE = 1.03
"""Speed-up that another execution must reach to be selected: less is noise."""

GRAPH_PAYS_S = 60
"""Capturing a CUDA graph takes about a second, so it is tried only if more than this is left to run, in seconds."""

WARM_UP, TIMED = 2, 5
"""Unmeasured and measured steps for each execution on a processor."""

GPU_WARM_UP, GPU_TIMED = 10, 50
"""The same on a GPU, where a step takes milliseconds and is not waited for one by one."""

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
    images_per_s: dict[str, float] = field(default_factory=dict)
    """Measured speeds by `name`; empty if nothing was measured."""

    @property
    def name(self) -> str:
        """Short name, such as `bf16 + compile`."""
        words = [self.precision]
        words += ["NCHW"] if self.layout == "contiguous" else []
        words += ["compile"] if self.compile else []
        words += ["CUDA graph"] if self.cuda_graph else []
        return " + ".join(words)

    def as_json(self) -> dict[str, Any]:
        """Return the entry of record and checkpoint; `cuda_graph` only where it is used."""
        values = dataclasses.asdict(self)
        if not self.cuda_graph:
            del values["cuda_graph"]
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


def make_forward(model: nn.Module, execution: Execution, label_smoothing: float = 0.0) -> Forward:
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
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)
        return loss, (logits.detach().argmax(1) != labels).sum()

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


def default_execution(config: RunConfig) -> Execution:
    """Return the configured execution, with the defaults in place of `auto`; nothing is measured."""
    return Execution(
        precision="fp32" if config.precision == "auto" else config.precision,
        layout="channels_last" if config.layout == "auto" else config.layout,
        compile=config.compile == "on",
        cuda_graph=config.compile == "cuda-graph",
    )


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


def select_execution(
    config: RunConfig,
    model: ResNet,
    batch: Callable[[], tuple[Tensor, Tensor]],
    *,
    macs: int,
    total_steps: int,
    is_shared: bool = False,
) -> tuple[Execution, Forward]:
    """Measure the executions that the configuration leaves open, if the run is long enough, and return the fastest.

    The network is restored afterwards. `batch` returns images and labels of a real batch; `macs` are for one image;
    `is_shared` is as for `check_execution`.

    Raises:
        ConfigError: if precision, compilation or CUDA graph are configured and do not work on this machine.
    """
    start, smoothing = default_execution(config), config.recipe.label_smoothing
    device = next(model.parameters()).device
    check_execution(start, device, is_shared=is_shared)
    batch_size = config.recipe.batch_size
    expected_s = 3 * macs * batch_size * total_steps / ASSUMED_MACS_PER_S
    undecided = "auto" in (config.precision, config.layout, config.compile)
    if expected_s < LONG_RUN_S or not undecided:
        return start, _compiled_or_refused(model, start, batch, smoothing)
    images, labels = batch()
    speeds: dict[str, float] = {}

    def speed(way: Execution, forward: Forward) -> float:
        speeds[way.name] = _images_per_s(model, way, forward, images, labels)
        return speeds[way.name]

    best = replace(start, compile=False, cuda_graph=False)
    with _unchanged(model):
        fastest = speed(best, make_forward(model, best, smoothing))
        for other in _others(config, best):
            found = speed(other, make_forward(model, other, smoothing))
            if found > fastest * WORTHWHILE:
                best, fastest = other, found
        forward = make_forward(model, best, smoothing)
        left_s = total_steps * batch_size / fastest
        configured = start.compile or start.cuda_graph
        for changes in _prepared(config, left_s, on_gpu=device.type == "cuda" and not is_shared):
            prepared = replace(best, compile=False, cuda_graph=False, **changes)
            with contextlib.suppress(*(() if configured else (Exception,))):  # no compiler here: do without
                candidate = make_forward(model, prepared, smoothing)
                if (found := speed(prepared, candidate)) > fastest * WORTHWHILE or configured:
                    best, forward, fastest = prepared, candidate, found
    return replace(best, images_per_s=speeds), forward


def _prepared(config: RunConfig, left_s: float, *, on_gpu: bool) -> Iterator[dict[str, bool]]:
    """Yield the fields of each prepared execution to measure: CUDA graph, compilation, both.

    Args:
        config: The configured one alone is measured if there is one.
        left_s: Seconds of the run without any: preparing takes time.
        on_gpu: Whether a CUDA graph is possible.
    """
    if config.compile == "on":
        yield {"compile": True}
    elif config.compile == "cuda-graph":
        yield {"cuda_graph": True}
    elif config.compile == "auto":
        if on_gpu and left_s > GRAPH_PAYS_S:
            yield {"cuda_graph": True}
        if left_s > COMPILE_PAYS_S:
            yield {"compile": True}
            if on_gpu:
                yield {"compile": True, "cuda_graph": True}


def _compiled_or_refused(
    model: ResNet, way: Execution, batch: Callable[[], tuple[Tensor, Tensor]], label_smoothing: float
) -> Forward:
    forward = make_forward(model, way, label_smoothing)
    if way.compile or way.cuda_graph:
        images, labels = batch()
        try:
            with _unchanged(model):
                _images_per_s(model, way, forward, images, labels)
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            option = "cuda-graph" if way.cuda_graph else "on"
            raise ConfigError(
                f"--compile {option} does not work here ({reason}); leave it out, or use --compile off"
            ) from error
    return forward


def _others(config: RunConfig, way: Execution) -> Iterator[Execution]:
    """Yield the other eager executions that the configuration leaves open."""
    precisions = ("fp32", "bf16") if config.precision == "auto" else (way.precision,)
    layouts = ("channels_last", "contiguous") if config.layout == "auto" else (way.layout,)
    for precision in precisions:
        for layout in layouts:
            if (precision, layout) != (way.precision, way.layout):
                yield replace(way, precision=precision, layout=layout)


def _images_per_s(model: ResNet, way: Execution, forward: Forward, images: Tensor, labels: Tensor) -> float:
    model.to(memory_format=way.memory_format)  # pyright: ignore[reportCallIssue]  # a stub lacks it
    images = images.contiguous(memory_format=way.memory_format)

    def step() -> float:
        start_s = time.perf_counter()
        loss, _ = forward(images, labels)
        loss.backward()
        if not images.is_cuda:
            loss.item()
        model.zero_grad()
        return time.perf_counter() - start_s

    with way.float32_products():
        if not images.is_cuda:
            times = [step() for _ in range(WARM_UP + TIMED)]
            return len(labels) / statistics.median(times[WARM_UP:])
        for _ in range(GPU_WARM_UP):
            step()
        torch.cuda.synchronize()
        start_s = time.perf_counter()
        for _ in range(GPU_TIMED):  # as in training, where losses are read together
            step()
        torch.cuda.synchronize()
        return len(labels) * GPU_TIMED / (time.perf_counter() - start_s)


@contextmanager
def _unchanged(model: ResNet) -> Iterator[None]:
    """Restore state and mode of the network afterwards: a measurement changes the statistics of BN."""
    before: dict[str, Any] = copy.deepcopy(model.state_dict())
    was_training = model.training
    model.train()
    try:
        yield
    finally:
        model.train(was_training)
        model.load_state_dict(before)
