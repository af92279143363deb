"""Signals: what gradients and activations do in each layer at a step, heard by hooks that stand for that step alone.

The network's `forward` knows nothing of them, and they change nothing: a run with signals has the same weights, to
the last bit, as one without (a compiled run takes the steps that are heard uncompiled, and so rounds otherwise there).

Paper: sections 1 and 4.1 (are gradients and forward signals healthy?), Figure 7 (responses).
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from resnetlab.models.blocks import Block
from resnetlab.models.resnet import ResNet
from resnetlab.training.execution import Execution, Forward, make_forward

NUM_SAMPLES = 50
"""How often a run is listened to, about: columns enough for a heat map."""

LEAST_STEPS = 16
"""Steps between two samples at least: one costs a tenth to a third of a step."""

NUM_IMAGES = 32
"""Images of a batch, its first ones, whose activations are looked at: enough for statistics over whole maps."""

DIGITS = 5
"""Significant digits that are kept of each value."""


@dataclass(frozen=True)
class LayerStatsHook:
    """When a run is listened to, and how the step is computed then."""

    model: ResNet
    forward: Forward
    """Uncompiled: hooks inside a compiled step would be compiled away, or compile it anew."""
    every: int
    """Steps between samples; 0 for none."""
    total_steps: int

    @contextmanager
    def listen(self, step: int) -> Iterator["LayerStats | None"]:
        """Listen to the forward passes made inside, where the step is due; else give `None`."""
        if not self.due(step):
            yield None
            return
        heard = LayerStats(self.model)
        handles = [module.register_forward_hook(hook) for module, hook in heard.hooks()]
        try:
            yield heard
        finally:
            for handle in handles:
                handle.remove()

    def due(self, step: int) -> bool:
        """Say whether step `step`, counted from 0, is listened to: the first, every so many, and the last."""
        return self.every > 0 and (step % self.every == 0 or step == self.total_steps - 1)


def sampling_interval(wanted: int | None, total_steps: int) -> int:
    """Return the steps between samples: what was wanted, or what gives `NUM_SAMPLES` at `LEAST_STEPS` or more."""
    return max(LEAST_STEPS, math.ceil(total_steps / NUM_SAMPLES)) if wanted is None else wanted


@dataclass(frozen=True)
class ConvLayer:
    """A convolution with its place in the network."""

    name: str
    conv: nn.Conv2d
    norm: nn.Module
    """What follows it: batch normalisation, or nothing."""
    ends: Block | None = None
    """The block that it is the last convolution of: the ReLU that it feeds comes after the addition."""
    projects: bool = False
    """It is a shortcut, which no ReLU follows directly."""


def conv_layers(model: ResNet) -> list[ConvLayer]:
    """Return every convolution in the order in which the network computes them; a block's projection comes last."""
    found = [ConvLayer("conv1", model.conv1, model.bn1)]
    for number, stage in enumerate(model.stages.values(), start=1):
        for position, block in enumerate(stage):
            assert isinstance(block, Block)
            found += _inside(block, f"layer{number}.{position}")
    return found


def _inside(block: Block, name: str) -> Iterator[ConvLayer]:
    parts = dict(block.named_children())
    count = sum(part.startswith("conv") for part in parts)
    for index in range(1, count + 1):
        conv = parts[f"conv{index}"]
        assert isinstance(conv, nn.Conv2d)
        yield ConvLayer(f"{name}.conv{index}", conv, parts[f"bn{index}"], block if index == count else None)
    if isinstance(block.downsample, nn.Sequential):
        conv, norm = block.downsample
        assert isinstance(conv, nn.Conv2d)
        yield ConvLayer(f"{name}.downsample.0", conv, norm, projects=True)


class LayerStats:
    """What one step let be heard; tensors of one number each, until `signal` reads them all at once."""

    def __init__(self, model: ResNet) -> None:
        self.layers = conv_layers(model)
        self.blocks = {layer.name.rpartition(".")[0]: layer.ends for layer in self.layers if layer.ends is not None}
        self._values: dict[tuple[str, str], Tensor] = {}
        self._sums: dict[str, Tensor] = {}

    def hooks(self) -> Iterator[tuple[nn.Module, Callable[..., None]]]:
        """Yield each module to listen to, with the hook that hears its output.

        BN's output is heard before the ReLU that overwrites it.
        """
        for layer in self.layers:
            yield layer.norm, partial(self._response, layer)
            if layer.ends is not None:
                yield layer.ends, partial(self._activation, layer.name)
        for name, block in self.blocks.items():
            if block.downsample is not None:
                yield block.downsample, partial(self._shortcut, name)

    def _response(self, layer: ConvLayer, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        seen = output.detach()[:NUM_IMAGES].float()
        self._values[layer.name, "response_std"] = seen.std()
        if layer.ends is not None:
            block = layer.name.rpartition(".")[0]
            self._values[block, "branch"] = torch.linalg.vector_norm(seen)
        elif layer.projects:
            self._values[layer.name, "activation_var"] = seen.var()
        else:
            self._hear(layer.name, seen.clamp_min(0))

    def _activation(self, name: str, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        self._hear(name, output.detach()[:NUM_IMAGES].float())

    def _shortcut(self, block: str, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        self._values[block, "shortcut"] = torch.linalg.vector_norm(output.detach()[:NUM_IMAGES].float())

    def _hear(self, name: str, activation: Tensor) -> None:
        """Take in what a ReLU gives."""
        self._values[name, "activation_var"] = activation.var()
        self._sums[name] = activation.sum((0, 2, 3))  # of numbers from 0 up: zero where every one is

    def signal(self, *, step: int, lr: float, loss: float) -> dict[str, Any]:
        """Return the record's `signal` line, after the backward pass and before the update.

        Without a backward pass (the loss was not finite) the gradients are missing, as `None`.
        """
        grads = [grad for layer in self.layers if (grad := layer.conv.weight.grad) is not None]
        if math.isfinite(loss):
            weights = [layer.conv.weight.detach() for layer in self.layers]
            norm = torch._foreach_norm  # pyright: ignore[reportPrivateImportUsage]  # one call for all
            sizes = zip(self.layers, norm(grads), norm(weights), strict=True)
            for layer, gradient, weight in sizes:
                self._values[layer.name, "grad_norm"] = gradient
                self._values[layer.name, "grad_to_weight"] = gradient / weight
        numbers = dict(zip(self._values, torch.stack(list(self._values.values())).tolist(), strict=True))
        channels = torch.cat(list(self._sums.values())).tolist()
        for name, sums in self._sums.items():
            its, channels = channels[: len(sums)], channels[len(sums) :]
            numbers[name, "dead_relu_pct"] = math.nan if any(map(math.isnan, its)) else 100 * its.count(0.0) / len(its)

        def column(quantity: str) -> list[float | None]:
            return [_short(numbers.get((layer.name, quantity))) for layer in self.layers]

        def ratio(block: str) -> float | None:
            shortcut = numbers.get((block, "shortcut"))
            return _short(numbers[block, "branch"] / shortcut) if shortcut else None

        names = [layer.name for layer in self.layers]
        kernels = [layer.conv.kernel_size[0] for layer in self.layers]
        return {
            "step": step,
            "lr": lr,
            "loss": loss,
            "layers": names,
            "kernels": kernels,
            **{quantity: column(quantity) for quantity in QUANTITIES},
            "blocks": list(self.blocks),
            "residual_ratio": [ratio(block) for block in self.blocks],
        }


QUANTITIES = ("grad_norm", "grad_to_weight", "response_std", "activation_var", "dead_relu_pct")
"""What is heard of each convolution:

- `grad_norm`: Euclidean norm of the loss's gradient with respect to its weights, without weight decay;
- `grad_to_weight`: that norm over the norm of the weights;
- `response_std`: standard deviation of its output after BN, before the non-linearity and the addition (Figure 7);
- `activation_var`: variance of what the ReLU after it gives (after the addition, for the last of a block);
- `dead_relu_pct`: share of the channels, in %, whose ReLU gives zero everywhere, on every image looked at.

Of each block, `residual_ratio` is ||F(x)|| over the norm of what the shortcut adds; plain networks have none.
"""


def measure_layer_stats(model: ResNet, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """Listen to one forward and backward pass of a batch in training mode; the network is as before afterwards.

    Args:
        model: On the device of the batch.
        images: Float images (batch, channels, height, width), normalised as the model expects.
        labels: int64, of shape (batch,).

    Returns:
        A `signal` line for step 0, learning rate 0.
    """
    sampler = LayerStatsHook(model, make_forward(model, Execution()), every=1, total_steps=1)
    before, was_training = copy.deepcopy(model.state_dict()), model.training
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    model.zero_grad()
    model.train()
    try:
        with sampler.listen(0) as heard:
            loss, _ = sampler.forward(images, labels)
        assert heard is not None
        if math.isfinite(loss.item()):
            loss.backward()
        return heard.signal(step=0, lr=0.0, loss=loss.item())
    finally:
        model.train(was_training)
        model.load_state_dict(before)
        for parameter, gradient in gradients:
            parameter.grad = gradient


def _short(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.{DIGITS}g}")
