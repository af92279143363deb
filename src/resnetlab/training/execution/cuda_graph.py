"""Forward and backward pass in a CUDA graph: the host launches a whole step at once, not hundreds of kernels.

A small network on a large GPU waits for its launches. A graph records the kernels once and replays them on new images.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

WARM_UP_PASSES = 3
"""Passes before the capture, in which cuDNN, cuBLAS and autograd allocate what a graph must not allocate."""

MAX_GRAPHS = 8
"""Graphs of a run, one for each shape of a batch and set of learning parameters; further shapes run without one."""

EagerForward = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Images and labels to the mean loss and the number of wrong answers, both tensors on the device."""

Capture = Callable[[Callable[[], list[Tensor]]], tuple[list[Tensor], Callable[[], None]]]
"""Runs a function under capture; returns its outputs, and a function that computes them anew into the same memory."""


class GraphedForward:
    """The forward pass of `make_forward`, replayed with its backward pass.

    A call computes loss, number of wrong answers and gradients; `loss.backward()` then gives the gradients to the
    parameters, in place of those they have. The loss must not be scaled, and gradients are not added up.
    """

    def __init__(self, model: nn.Module, forward: EagerForward, capture: Capture | None = None) -> None:
        self._model, self._forward, self._capture = model, forward, capture or capture_on_gpu
        self._graphs: dict[tuple[Any, ...], _StepGraph] = {}

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return loss and number of wrong answers; the first call for a shape captures a graph."""
        learning = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        key = (images.shape, images.stride(), labels.shape, tuple(map(id, learning)))
        if key not in self._graphs:
            if len(self._graphs) == MAX_GRAPHS:
                return self._forward(images, labels)
            self._graphs[key] = self._capture_step(images, labels, learning)
        return self._graphs[key](images, labels)

    def _capture_step(self, images: Tensor, labels: Tensor, learning: list[nn.Parameter]) -> "_StepGraph":
        images, labels = images.clone(), labels.clone()

        def step() -> list[Tensor]:
            for parameter in learning:
                parameter.grad = None  # the backward pass then writes gradients instead of adding to them
            loss, num_wrong = self._forward(images, labels)
            loss.backward()
            gradients = [_take_gradient(parameter) for parameter in learning]
            return [loss.detach(), num_wrong, *gradients]

        buffers = [(buffer, buffer.clone()) for buffer in self._model.buffers()]
        try:
            outputs, replay = self._capture(step)
        finally:
            with torch.no_grad():
                for buffer, before in buffers:  # the warm-up is no training: statistics of BN stay as they were
                    buffer.copy_(before)
            for parameter in learning:
                parameter.grad = None  # a step that fails leaves some
        return _StepGraph(replay, (images, labels), outputs, learning)


class _StepGraph:
    """A captured step for batches of one shape."""

    def __init__(
        self,
        replay: Callable[[], None],
        inputs: tuple[Tensor, Tensor],
        outputs: list[Tensor],
        learning: Sequence[nn.Parameter],
    ) -> None:
        self._replay, self._learning = replay, learning
        self._images, self._labels = inputs
        self._loss, self._num_wrong, *self._gradients = outputs
        self._anchor = torch.zeros((), device=self._loss.device, requires_grad=True)

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        self._images.copy_(images)
        self._labels.copy_(labels)
        self._replay()
        loss: Any = _Loss.apply(self._anchor, self._loss, self)
        return loss, self._num_wrong.clone()

    def hand_over_gradients(self) -> None:
        """Make the gradients of the last replay those of the parameters."""
        for parameter, gradient in zip(self._learning, self._gradients, strict=True):
            parameter.grad = gradient


class _Loss(torch.autograd.Function):
    """The loss of a replay, whose backward pass has been computed already."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, loss: Tensor, graph: _StepGraph) -> Tensor:
        ctx.graph = graph
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[None, None, None]:
        ctx.graph.hand_over_gradients()
        return None, None, None


def capture_on_gpu(step: Callable[[], list[Tensor]]) -> tuple[list[Tensor], Callable[[], None]]:
    """Capture a step in a CUDA graph, after a warm-up on a stream of its own."""
    stream, graph, before = torch.cuda.Stream(), torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    stream.wait_stream(before)
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP_PASSES):
            step()
    before.wait_stream(stream)
    try:
        with torch.cuda.graph(graph, stream=stream):
            outputs = step()
    finally:
        torch.cuda.set_stream(before)  # PyTorch leaves its stream current where a capture fails
    return outputs, graph.replay


def _take_gradient(parameter: nn.Parameter) -> Tensor:
    gradient, parameter.grad = parameter.grad, None
    if gradient is None:
        raise RuntimeError("a parameter that learns got no gradient")
    return gradient
