"""The execution of a step: precision, memory layout, compilation; selected by a short measurement in long runs."""

import contextlib
import copy
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnetlab.config import ConfigError, RunConfig
from resnetlab.models.resnet import ResNet

LONG_RUN_S = 600
"""Shorter runs, in seconds, are not measured: they use fp32, channels last and no compilation."""

COMPILE_PAYS_S = 1800
"""Compilation takes about a minute, so it is tried only if more than this is left to run, in seconds."""

ASSUMED_MACS_PER_S = 5e10
"""Speed that the first estimate of a run's time assumes: a slow machine, so that a run is more likely measured."""

WORTHWHILE = 1.03
"""Speed-up that another execution must reach to be selected: less is noise."""

WARM_UP, TIMED = 2, 5
"""Unmeasured and measured steps for each execution."""

Forward = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Images and labels to the mean loss and the number of wrong answers, both tensors."""


@dataclass(frozen=True)
class Execution:
    """Precision, layout and compilation of every step of a run; recorded, and restored when the run is resumed."""

    precision: str = "fp32"
    layout: str = "channels_last"
    compile: bool = False
    images_per_s: dict[str, float] = field(default_factory=dict)
    """Measured speeds by `name`; empty if nothing was measured."""

    @property
    def name(self) -> str:
        """Short name, such as `bf16 + compile`."""
        words = [self.precision]
        words += ["NCHW"] if self.layout == "contiguous" else []
        words += ["compile"] if self.compile else []
        return " + ".join(words)

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
    """Return a function that computes the loss (always in fp32) and the errors of a batch as `execution` says."""
    device_type = next(model.parameters()).device.type

    def forward(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if execution.precision == "bf16":
            with torch.autocast(device_type, torch.bfloat16):
                logits = model(images)
        else:
            logits = model(images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)
        return loss, (logits.detach().argmax(1) != labels).sum()

    if not execution.compile:
        return forward
    # On a GPU a small network waits for its launches; there the step is captured as well (unmeasured so far).
    mode = "reduce-overhead" if device_type == "cuda" else "default"
    return torch.compile(forward, mode=mode)


def default_execution(config: RunConfig) -> Execution:
    """Return the configured execution, with the defaults in place of `auto`; nothing is measured."""
    return Execution(
        precision="fp32" if config.precision == "auto" else config.precision,
        layout="channels_last" if config.layout == "auto" else config.layout,
        compile=config.compile == "on",
    )


def select_execution(
    config: RunConfig, model: ResNet, batch: Callable[[], tuple[Tensor, Tensor]], *, macs: int, total_steps: int
) -> tuple[Execution, Forward]:
    """Measure the executions that the configuration leaves open, if the run is long enough, and return the fastest.

    The network is restored afterwards. `batch` returns images and labels of a real batch; `macs` are for one image.

    Raises:
        ConfigError: if compilation is configured and does not work on this machine.
    """
    start, smoothing = default_execution(config), config.recipe.label_smoothing
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

    best = replace(start, compile=False)
    with _unchanged(model):
        fastest = speed(best, make_forward(model, best, smoothing))
        for other in _others(config, best):
            found = speed(other, make_forward(model, other, smoothing))
            if found > fastest * WORTHWHILE:
                best, fastest = other, found
        forward = make_forward(model, best, smoothing)
        left_s = total_steps * batch_size / fastest
        if start.compile or (config.compile == "auto" and left_s > COMPILE_PAYS_S):
            compiled = replace(best, compile=True)
            with contextlib.suppress(*(() if start.compile else (Exception,))):  # no compiler here: do without
                candidate = make_forward(model, compiled, smoothing)
                if speed(compiled, candidate) > fastest * WORTHWHILE or start.compile:
                    best, forward = compiled, candidate
    return replace(best, images_per_s=speeds), forward


def _compiled_or_refused(
    model: ResNet, way: Execution, batch: Callable[[], tuple[Tensor, Tensor]], label_smoothing: float
) -> Forward:
    forward = make_forward(model, way, label_smoothing)
    if way.compile:
        images, labels = batch()
        try:
            with _unchanged(model):
                _images_per_s(model, way, forward, images, labels)
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ConfigError(
                f"--compile on does not work here ({reason}); leave it out, or use --compile off"
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
    times = []
    for _ in range(WARM_UP + TIMED):
        start = time.perf_counter()
        loss, _ = forward(images, labels)
        loss.backward()
        loss.item()  # on a GPU: wait until it is done
        model.zero_grad()
        times.append(time.perf_counter() - start)
    return len(labels) / statistics.median(times[WARM_UP:])


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
