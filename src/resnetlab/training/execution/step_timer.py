"""Timing of training steps: executions are compared on few images, step by step in turn, within a time budget.

Taking turns exposes each execution to the same load of the machine. A slow one is dropped after its first step.
"""

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from resnetlab.models.evaluation_mode import restored_modes
from resnetlab.models.resnet import ResNet
from resnetlab.training.block_noise import noise_of
from resnetlab.training.execution.execution import Execution, Forward, make_forward
from resnetlab.training.loss import LossFunction

STEP_S = 0.25
"""Time of a measured step on a processor, in seconds; decides how many images it has."""
MIN_IMAGES = 4
"""Fewest images of a measured step, unless the batch is smaller."""
PROBE_IMAGES = 2
"""Images of the first step, which shows how fast the machine is, and whether an execution is worth measuring."""
LEAST_IMAGE_SHARE = 0.02
"""Least time of an image, as a share of that in a step of few: two noisy times may show none."""
DROPPED = 1.6
"""Factor on the fastest time beyond which an execution is not measured further."""
ROUNDS = 7
"""Most timed steps of each execution."""
LINE_S = 2.0
"""Seconds between two lines about the speed."""
GPU_STEPS = 10
"""Steps that are timed together on a GPU, where a step takes milliseconds and is not waited for one by one."""


def num_measured_images(step_s: Callable[[int], float], batch_size: int) -> int:
    """Return how many images a measured step has on a processor: a power of two, or the whole batch if it is small.

    It takes about `STEP_S`, by the times of two steps of few images. One alone would show the time of the update and
    of starting operations, which is the same for any number, and other executions are the fastest there.

    Args:
        step_s: Returns the seconds of a step of so many images.
        batch_size: Images of a step of the run.
    """
    few, more = min(PROBE_IMAGES, batch_size), min(4 * PROBE_IMAGES, batch_size)
    few_s = step_s(few)
    start_s, image_s = 0.0, few_s / few
    if few_s < STEP_S and more > few:
        image_s = max((step_s(more) - few_s) / (more - few), LEAST_IMAGE_SHARE * image_s)
        start_s = max(0.0, few_s - few * image_s)
    wanted = max(MIN_IMAGES, int((STEP_S - start_s) / image_s))
    return min(batch_size, 1 << (wanted.bit_length() - 1))


class StepTimer:
    """Times whole training steps of one network: forward and backward pass, and an update by nothing.

    Args:
        model: The network, in training mode.
        images: Images as the network reads them, on its device.
        labels: Their labels.
        loss: The loss of the recipe.
        log: Receives a line every two seconds.
    """

    def __init__(
        self,
        model: ResNet,
        images: Tensor,
        labels: Tensor,
        *,
        loss: LossFunction,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.model, self.images, self.labels, self.loss = model, images, labels, loss
        self._log, self._next_line_s = log, time.monotonic() + LINE_S
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.SGD(learning, lr=0.0, momentum=0.9, fused=True)
        for noise in noise_of(model):
            noise.set(0, 0, images.device)  # a graph cannot take random numbers from the host
        self._threads = torch.get_num_threads()
        self._times: dict[str, list[float]] = {}

    def time_step(self, way: Execution, forward: Forward, num_images: int | None = None) -> float:
        """Return the seconds of a step; on a GPU the mean of several."""
        images, labels = self.images[:num_images], self.labels[:num_images]
        # As the loader's: `contiguous` would leave the strides of images of one channel as they are.
        images = torch.empty_like(images, memory_format=way.memory_format).copy_(images)
        self.model.to(memory_format=way.memory_format)  # pyright: ignore[reportCallIssue]  # a stub lacks it
        if way.threads and way.threads != torch.get_num_threads():
            torch.set_num_threads(way.threads)
        steps = GPU_STEPS if images.is_cuda else 1
        start_s = time.perf_counter()
        with way.float32_products():
            for number in range(steps):
                self._optimizer.zero_grad()
                loss, _ = forward(images, labels)
                loss.backward()
                self._optimizer.step()
                if number == steps - 1:
                    loss.item()  # waits for a GPU
        return (time.perf_counter() - start_s) / steps

    def images_per_s(self, way: Execution, forward: Forward | None = None, *, rounds: int = ROUNDS) -> float:
        """Return the speed of one execution: the median of some steps after one that warms up."""
        for _ in range(rounds):
            self._sample(way, forward)
        return self._speed(way.name)

    def compare(self, ways: Sequence[Execution], budget_s: float, *, num_certain: int = 1) -> dict[str, float]:
        """Return the images per second of eager executions by name: median over steps that they take in turn.

        The first `num_certain` are always measured, unless one is far slower than the first, and the others while the
        budget lasts; one that is left out has no entry.
        """
        end_s = time.perf_counter() + budget_s
        self._sample(ways[0])
        for number, way in enumerate(ways[1:], start=1):
            if (number < num_certain or time.perf_counter() < end_s) and not self._is_slow(way):
                self._sample(way)
        measured = [way for way in ways if way.name in self._times]
        for _ in range(ROUNDS - 1):
            fastest = min(min(self._times[way.name]) for way in measured)
            for way in measured:
                if time.perf_counter() < end_s and min(self._times[way.name]) <= DROPPED * fastest:
                    self._sample(way)
        self.restore_threads()
        return {way.name: self._speed(way.name) for way in measured}

    def _sample(self, way: Execution, forward: Forward | None = None) -> None:
        """Time one step of an execution, after one that warms up if it is the first."""
        forward = forward or self.forward(way)
        if way.name not in self._times:
            self.time_step(way, forward)
            self._times[way.name] = []
        self._times[way.name].append(self.time_step(way, forward))
        if time.monotonic() >= self._next_line_s:
            self._next_line_s = time.monotonic() + LINE_S
            self._log(f"  {way.name}: {self._speed(way.name):.3g} images/s")

    def _speed(self, name: str) -> float:
        return len(self.labels) / statistics.median(self._times[name])

    def forward(self, way: Execution) -> Forward:
        """Return the forward pass of an execution."""
        return make_forward(self.model, way, self.loss)

    def restore_threads(self) -> None:
        """Set the number of threads that there was at first."""
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)

    def _is_slow(self, way: Execution) -> bool:
        """Return whether a step of two images alone takes as long as a whole step of the fastest so far.

        So it is with bf16 on a processor without instructions for it.
        """
        if len(self.labels) <= 2 * PROBE_IMAGES or self.images.is_cuda:
            return False
        fastest = min(min(times) for times in self._times.values())
        forward = self.forward(way)
        probes = (self.time_step(way, forward, PROBE_IMAGES) for _ in range(2))  # the first also prepares kernels
        return all(probe_s > DROPPED * fastest for probe_s in probes)


@contextmanager
def unchanged(model: ResNet) -> Iterator[None]:
    """Restore state, mode and gradients of a network afterwards: a measured step changes the statistics of BN."""
    before: dict[str, Any] = copy.deepcopy(model.state_dict())
    try:
        with restored_modes(model):
            model.train()
            yield
    finally:
        model.load_state_dict(before)
        model.zero_grad()


def random_batch(
    model: ResNet, num_images: int, image_size: int, *, multi_label: bool = False
) -> tuple[Tensor, Tensor]:
    """Return images of noise, and labels, on the device of a network: the time of a step does not depend on pixels."""
    device, config = model.fc.weight.device, model.config
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(num_images, config.in_channels, image_size, image_size, generator=generator)
    labels = torch.randint(config.num_classes, (num_images,), generator=generator)
    if multi_label:
        labels = torch.rand(num_images, config.num_classes, generator=generator) < 0.5
    return images.to(device), labels.to(device)
