"""Selection of precision, memory layout, threads, compilation and CUDA graph: measured if the run is long enough."""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NoReturn

import torch
from torch import Tensor

from resnetlab.config import ConfigError, RunConfig
from resnetlab.models.resnet import ResNet
from resnetlab.system.cores import thread_counts
from resnetlab.training.execution.execution import Execution, Forward, check_execution, default_execution, make_forward
from resnetlab.training.execution.step_timer import StepTimer, num_measured_images, unchanged
from resnetlab.training.loss import LossFunction, make_loss

LONG_RUN_S = 60
"""Shorter runs, in seconds, are not measured: they use fp32, channels last and no compilation."""
SLOW_MACS_PER_S = 5e10
"""Multiply-adds per second of a slow machine."""
LAYER_S = 2.5e-4
"""Least time of a layer in a step, in seconds, on a slow machine: small networks are not limited by arithmetic."""
BUDGET_SHARE, MAX_BUDGET_S = 0.02, 6.0
"""Time for comparing executions: a share of the run's, and at most this many seconds."""
COMPILE_PAYS_S = 3600
"""Compilation takes about a minute, so it is tried only if more than this is left to run, in seconds."""
GRAPH_PAYS_S = 60
"""Capturing a CUDA graph takes about a second, so it is tried only if more than this is left to run, in seconds."""
WORTHWHILE = 1.03
"""Speed-up that another execution must reach to be selected: less is noise."""
FEW_IMAGES = 16
"""Images of the steps by which numbers of threads are compared, at most."""
PREPARED_ROUNDS = 5
"""Timed steps of a compiled or captured execution."""

Log = Callable[[str], None]


@dataclass(frozen=True)
class StepLoad:
    """The work of a run, as far as its time depends on it."""

    macs: int
    """Multiply-adds of the network for one image."""
    total_steps: int
    batch_size: int
    """Images of a step, over all processes and micro-batches."""
    depth: int = 20
    """Layers of the network."""
    shares: int = 1
    """Processes times micro-batches that share each step."""
    planned_s: float | None = None
    """Seconds of a run whose length will follow from its time; `None` if its steps are given."""
    most_steps: int | None = None
    """Steps that such a run has at most."""

    @property
    def is_shared(self) -> bool:
        """Whether a step has several processes or micro-batches."""
        return self.shares > 1

    @property
    def share_size(self) -> int:
        """Images that are computed together."""
        return max(2, self.batch_size // self.shares)

    @property
    def slow_s(self) -> float:
        """Seconds that the run takes on a slow machine."""
        arithmetic_s = 3 * self.macs * self.batch_size / SLOW_MACS_PER_S
        return self.total_steps * max(arithmetic_s, LAYER_S * self.depth)

    def expected_s(self, images_per_s: float) -> float:
        """Return the seconds of the run at a measured speed."""
        if self.planned_s is None:
            return self.total_steps * self.batch_size / images_per_s
        most_s = math.inf if self.most_steps is None else self.most_steps * self.batch_size / images_per_s
        return min(self.planned_s, most_s)


def select_execution(
    config: RunConfig,
    model: ResNet,
    batch: Callable[[int], tuple[Tensor, Tensor]],
    *,
    load: StepLoad,
    loss: LossFunction | None = None,
    log: Log = lambda line: None,
) -> tuple[Execution, Forward]:
    """Measure the executions that the configuration leaves open, if the run is long enough, and return the fastest.

    The network is restored afterwards. The speed of the result is in its `images_per_s`, unless the run is short.

    Args:
        config: With the precision, layout, compilation and threads that the user has set.
        model: The network on its device.
        batch: Returns as many images, with labels, as it is asked for.
        load: The work of the run.
        loss: The loss of a step; the recipe's without class weights if not given.
        log: Receives a line before measuring starts.

    Raises:
        ConfigError: if precision, compilation or CUDA graph are configured and do not work on this machine.
    """
    start, loss = default_execution(config), loss or make_loss(config.recipe)
    device = model.fc.weight.device
    check_execution(start, device, is_shared=load.is_shared)
    if load.slow_s < LONG_RUN_S:
        return start, compiled_or_refused(model, start, lambda: batch(load.share_size), loss)
    on_gpu = device.type == "cuda"
    log("measuring the speed of this machine …")
    with unchanged(model):
        num_images = load.share_size
        if not on_gpu:
            num_images = _num_images(model, start, batch, batch_size=load.share_size, loss=loss, log=log)
        timer = StepTimer(model, *batch(num_images), loss=loss, log=log)
        best, speeds = _compare_eager(config, timer, load, log=log)
        left_s, configured = load.expected_s(speeds[best.name]), start.compile or start.cuda_graph
        ways = list(_prepared(config, left_s, on_gpu=on_gpu and not load.is_shared))
        if ways:
            log("compiling the step or capturing it as a graph, which takes up to a minute …")
            timer = StepTimer(model, *batch(load.share_size), loss=loss)  # the shape is compiled in
        best, forward = _fastest_prepared(
            timer, ways, best=(best, timer.forward(best)), speeds=speeds, is_configured=configured, log=log
        )
        timer.restore_threads()
    return replace(best, images_per_s=speeds), forward


def _fastest_prepared(
    timer: StepTimer,
    ways: list[dict[str, bool]],
    *,
    best: tuple[Execution, Forward],
    speeds: dict[str, float],
    is_configured: bool,
    log: Log,
) -> tuple[Execution, Forward]:
    """Return the fastest of the best eager execution and the prepared ones, and add their speeds to `speeds`.

    One that does not work here is left out, unless it is configured; after one graph that cannot be captured no other
    is tried.
    """
    way, forward = best
    can_capture, can_compile = True, True
    for changes in ways:
        prepared = replace(way, **{"compile": False, "cuda_graph": False, **changes})
        if (prepared.cuda_graph and not can_capture) or (prepared.compile and not can_compile):
            continue
        try:
            candidate = timer.forward(prepared)
            found = timer.images_per_s(prepared, candidate, rounds=PREPARED_ROUNDS)
        except Exception as error:
            if is_configured:
                _raise_refusal(prepared, error)
            can_capture = can_capture and not prepared.cuda_graph
            can_compile = can_compile and (not prepared.compile or prepared.cuda_graph)
            log(f"{prepared.name} does not work here ({_reason(error)}); going on without")
            continue
        speeds[prepared.name] = found
        if found > speeds[way.name] * WORTHWHILE or is_configured:
            way, forward = prepared, candidate
    return way, forward


def _num_images(
    model: ResNet,
    way: Execution,
    batch: Callable[[int], tuple[Tensor, Tensor]],
    *,
    batch_size: int,
    loss: LossFunction,
    log: Log,
) -> int:
    """Return how many images a measured step has on a processor, by the time of steps of few."""
    eager = replace(way, compile=False, cuda_graph=False)

    def step_s(num_images: int) -> float:
        timer = StepTimer(model, *batch(num_images), loss=loss, log=log)
        seconds = num_images / timer.images_per_s(eager, rounds=1)
        timer.restore_threads()
        return seconds

    return num_measured_images(step_s, batch_size)


def _compare_eager(
    config: RunConfig, timer: StepTimer, load: StepLoad, *, log: Log
) -> tuple[Execution, dict[str, float]]:
    """Return the fastest eager execution that the configuration allows, and the measured speeds by name."""
    best = replace(default_execution(config), compile=False, cuda_graph=False)
    counts, now = _thread_counts(config, timer, load), torch.get_num_threads()
    first = replace(best, threads=now) if counts else best
    speeds = {first.name: timer.images_per_s(first, rounds=1)}
    expected_s = load.expected_s(speeds[first.name])
    if expected_s < LONG_RUN_S:
        return best, {best.name: speeds[first.name]}
    budget_s, best = min(MAX_BUDGET_S, BUDGET_SHARE * expected_s), first
    others = list(_others(config, best))
    if others or counts:
        log(f"comparing threads, precisions and memory layouts, for about {max(1, round(budget_s))} s …")
    if counts:
        # Beside another busy process, threads that wait for each other can be many times slower than one. So each
        # number takes steps before the rest, on few images, whatever the budget. PyTorch's own number comes first:
        # another must be faster by more than noise.
        ways = [best, *(replace(best, threads=count) for count in counts if count != now)]
        few = StepTimer(timer.model, timer.images[:FEW_IMAGES], timer.labels[:FEW_IMAGES], loss=timer.loss)
        best = _fastest(ways, few.compare(ways, budget_s / 3, num_certain=len(ways)))
        few.restore_threads()
        others = list(_others(config, best))
    if others or best != first:
        speeds |= timer.compare([best, *others], budget_s * 2 / 3, num_certain=2)
    return _fastest([best, *others], speeds), speeds


def _fastest(ways: list[Execution], speeds: dict[str, float]) -> Execution:
    """Return the fastest; the first if no other is faster by more than noise."""
    best = ways[0]
    for way in ways[1:]:
        if speeds.get(way.name, 0.0) > speeds[best.name] * WORTHWHILE:
            best = way
    return best


def _thread_counts(config: RunConfig, timer: StepTimer, load: StepLoad) -> tuple[int, ...]:
    """Return the numbers of threads to compare; empty if the user or another process has decided."""
    if config.threads or timer.images.is_cuda or load.is_shared or "OMP_NUM_THREADS" in os.environ:
        return ()
    counts = thread_counts(torch.get_num_threads())
    return counts if len(counts) > 1 else ()


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


def _others(config: RunConfig, way: Execution) -> Iterator[Execution]:
    """Yield the other eager executions that the configuration leaves open; the most promising ones first."""
    precisions = ("bf16", "fp32") if config.precision == "auto" else (way.precision,)
    layouts = ("channels_last", "contiguous") if config.layout == "auto" else (way.layout,)
    for precision in precisions:
        for layout in layouts:
            if (precision, layout) != (way.precision, way.layout):
                yield replace(way, precision=precision, layout=layout)


def compiled_or_refused(
    model: ResNet, way: Execution, batch: Callable[[], tuple[Tensor, Tensor]], loss: LossFunction
) -> Forward:
    """Return the forward pass of an execution; a compiled one is run once, so that a failure is found here."""
    forward = make_forward(model, way, loss)
    if way.compile or way.cuda_graph:
        images, labels = batch()
        try:
            with unchanged(model):
                StepTimer(model, images, labels, loss=loss).images_per_s(way, forward, rounds=1)
        except Exception as error:
            _raise_refusal(way, error)
    return forward


def _raise_refusal(way: Execution, error: Exception) -> NoReturn:
    """Raise `ConfigError` for an execution that does not work here; too little memory keeps PyTorch's own message."""
    if isinstance(error, torch.OutOfMemoryError | ConfigError):
        raise error
    option = "cuda-graph" if way.cuda_graph else "on"
    raise ConfigError(
        f"--compile {option} does not work here ({_reason(error)}); leave it out, or use --compile off"
    ) from error


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
