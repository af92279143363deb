"""Layer statistics: gradients, activations and responses of each layer, collected by hooks during single steps.

The hooks do not change the run: with and without them the weights are equal bit for bit. (A compiled run takes the
sampled steps uncompiled, so those round differently.)

Paper: sections 1 and 4.1 (are gradients and forward signals healthy?), Figure 7 (responses).
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from resnetlab.models.blocks import Block
from resnetlab.models.evaluation_mode import restored_modes
from resnetlab.models.resnet import ResNet
from resnetlab.system.tf32 import float32_products
from resnetlab.training.block_noise import noise_of
from resnetlab.training.execution.execution import Execution, Forward, make_forward

NUM_SAMPLES = 50
"""Samples in a run, about: enough columns for a heat map."""

LEAST_STEPS = 16
"""Fewest steps between two samples: a sample costs a tenth to a third of a step."""

NUM_IMAGES = 32
"""Images at the start of a batch whose activations are measured: enough for statistics over whole maps."""

DIGITS = 5
"""Significant digits of each recorded value."""


def sampling_interval(configured: int | None, total_steps: int) -> int:
    """Return the steps between samples: as configured, else enough for `NUM_SAMPLES`, at least `LEAST_STEPS`."""
    return max(LEAST_STEPS, math.ceil(total_steps / NUM_SAMPLES)) if configured is None else configured


class StepStats(Protocol):
    """The statistics of one step."""

    def hooks(self) -> Iterator[tuple[nn.Module, Callable[..., None]]]:
        """Yield each module to hook and its forward hook."""
        ...

    def to_record(self, *, step: int, lr: float, loss: float) -> dict[str, Any]:
        """Return the record's `signal` line; call it after the backward pass and before the update."""
        ...


@dataclass(frozen=True)
class ConvLayer:
    """A convolution and its position in the network."""

    name: str
    conv: nn.Conv2d
    norm: nn.Module
    """The module after it: batch normalisation, or the identity."""
    last_of: Block | None = None
    """The block whose last convolution this is; the ReLU comes after the addition then."""
    is_projection: bool = False
    """Whether it is a projection shortcut, which no ReLU follows directly."""


def conv_layers(model: ResNet) -> list[ConvLayer]:
    """Return every convolution in the order of the forward pass; a block's projection comes last."""
    found = [ConvLayer(name, conv, norm) for name, (conv, norm) in model.stem_layers.items()]
    for number, stage in enumerate(model.stages.values(), start=1):
        for position, block in enumerate(stage):
            assert isinstance(block, Block)
            found += _block_layers(block, f"layer{number}.{position}")
    return found


def _block_layers(block: Block, name: str) -> Iterator[ConvLayer]:
    layers = block.conv_layers()
    for index, (conv, norm) in enumerate(layers, start=1):
        yield ConvLayer(f"{name}.conv{index}", conv, norm, block if index == len(layers) else None)
    if isinstance(block.downsample, nn.Sequential):
        conv, norm = block.downsample
        assert isinstance(conv, nn.Conv2d)
        yield ConvLayer(f"{name}.downsample.0", conv, norm, is_projection=True)


class LayerStats:
    """The statistics of one step: scalar tensors, until `to_record` reads all of them at once."""

    def __init__(self, model: ResNet) -> None:
        self.layers = conv_layers(model)
        self.blocks = {
            layer.name.rpartition(".")[0]: layer.last_of for layer in self.layers if layer.last_of is not None
        }
        self._values: dict[tuple[str, str], Tensor] = {}
        self._sums: dict[str, Tensor] = {}

    def hooks(self) -> Iterator[tuple[nn.Module, Callable[..., None]]]:
        """Yield each module to hook and its forward hook.

        The hook on BN runs before the in-place ReLU overwrites its output.
        """
        for layer in self.layers:
            yield layer.norm, partial(self._response, layer)
            if layer.last_of is not None:
                yield layer.last_of, partial(self._activation, layer.name)
        for name, block in self.blocks.items():
            yield block.residual_end, partial(self._branch, name)
            if block.downsample is not None:
                yield block.downsample, partial(self._shortcut, name)

    def _response(self, layer: ConvLayer, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        values = output.detach()[:NUM_IMAGES].float()
        self._values[layer.name, "response_std"] = values.std()
        if layer.is_projection:
            self._values[layer.name, "activation_var"] = values.var()
        elif layer.last_of is None:
            self._add_activation(layer.name, values.clamp_min(0))

    def _activation(self, name: str, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        self._add_activation(name, output.detach()[:NUM_IMAGES].float())

    def _branch(self, block: str, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        self._values[block, "branch"] = torch.linalg.vector_norm(output.detach()[:NUM_IMAGES].float())

    def _shortcut(self, block: str, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        self._values[block, "shortcut"] = torch.linalg.vector_norm(output.detach()[:NUM_IMAGES].float())

    def _add_activation(self, name: str, activation: Tensor) -> None:
        """Add the output of a ReLU."""
        self._values[name, "activation_var"] = activation.var()
        self._sums[name] = activation.sum((0, 2, 3))  # of values at least 0: zero if all are

    def to_record(self, *, step: int, lr: float, loss: float) -> dict[str, Any]:
        """Return the record's `signal` line; call it after the backward pass and before the update.

        Gradients are `None` if the loss was not finite, as there was no backward pass then.
        """
        learning = [(layer, grad) for layer in self.layers if (grad := layer.conv.weight.grad) is not None]
        if math.isfinite(loss) and learning:
            norm = torch._foreach_norm  # pyright: ignore[reportPrivateImportUsage]  # one call for all
            gradients = norm([grad for _, grad in learning])
            weights = norm([layer.conv.weight.detach() for layer, _ in learning])
            for (layer, _), gradient, weight in zip(learning, gradients, weights, strict=True):
                self._values[layer.name, "grad_norm"] = gradient
                self._values[layer.name, "grad_to_weight"] = gradient / weight
        numbers = dict(zip(self._values, torch.stack(list(self._values.values())).tolist(), strict=True))
        channels = torch.cat(list(self._sums.values())).tolist()
        for name, sums in self._sums.items():
            own, channels = channels[: len(sums)], channels[len(sums) :]
            numbers[name, "dead_relu_pct"] = math.nan if any(map(math.isnan, own)) else 100 * own.count(0.0) / len(own)

        def ratio(block: str) -> float | None:
            shortcut = numbers.get((block, "shortcut"))
            return numbers[block, "branch"] / shortcut if shortcut else None

        layers = {layer.name: layer.conv for layer in self.layers}
        ratios = {block: ratio(block) for block in self.blocks}
        return signal_line(layers, numbers, ratios, step=step, lr=lr, loss=loss)


def signal_line(
    layers: Mapping[str, nn.Module],
    numbers: Mapping[tuple[str, str], float],
    ratios: Mapping[str, float | None],
    *,
    step: int,
    lr: float,
    loss: float,
) -> dict[str, Any]:
    """Return a `signal` line of the record.

    Args:
        layers: The layers by name; one without a kernel counts as a 1x1 convolution.
        numbers: Values by layer and quantity; those that are missing or not finite are recorded as `None`.
        ratios: The ratio of F to the shortcut of each block.
        step: Step, counted from 0.
        lr: Its learning rate.
        loss: Its loss.
    """
    return {
        "step": step,
        "lr": lr,
        "loss": loss,
        "layers": list(layers),
        "kernels": [getattr(layer, "kernel_size", (1,))[0] for layer in layers.values()],
        **{quantity: [_round(numbers.get((name, quantity))) for name in layers] for quantity in QUANTITIES},
        "blocks": list(ratios),
        "residual_ratio": [_round(ratio) for ratio in ratios.values()],
    }


@dataclass(frozen=True)
class LayerStatsHook:
    """Collects layer statistics on the steps that are due."""

    model: ResNet
    forward: Forward
    """The uncompiled forward pass: hooks in a compiled one would be compiled away, or trigger a recompilation."""
    every: int
    """Steps between samples; 0 for none."""
    total_steps: int
    make_stats: Callable[[Any], StepStats] = LayerStats

    @contextmanager
    def record(self, step: int) -> Iterator[StepStats | None]:
        """Collect the statistics of the forward passes in the body if `step` is due; else yield `None`."""
        if not self.is_due(step):
            yield None
            return
        stats = self.make_stats(self.model)
        handles = [module.register_forward_hook(hook) for module, hook in stats.hooks()]
        try:
            yield stats
        finally:
            for handle in handles:
                handle.remove()

    def is_due(self, step: int) -> bool:
        """Return whether step `step`, counted from 0, is sampled: the first, every `every`-th, and the last."""
        return self.every > 0 and (step % self.every == 0 or step == self.total_steps - 1)


QUANTITIES = ("grad_norm", "grad_to_weight", "response_std", "activation_var", "dead_relu_pct")
"""The quantities recorded for each convolution:

- `grad_norm`: Euclidean norm of the loss's gradient with respect to its weights, without weight decay;
- `grad_to_weight`: that norm over the norm of the weights;
- `response_std`: standard deviation of its output after BN, before the non-linearity and the addition (Figure 7);
- `activation_var`: variance of the output of the ReLU after it (for the last of a block, after the addition);
- `dead_relu_pct`: share of the channels, in %, whose ReLU outputs zero at every position of every measured image.

For each block `residual_ratio` is ||F(x)|| / ||shortcut(x)||; plain networks have none.
"""


@float32_products(tf32=False)
def measure_layer_stats(model: ResNet, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """Measure one forward and backward pass of a batch in training mode, and restore the network afterwards.

    Args:
        model: On the device of the batch.
        images: Float images (batch, channels, height, width), normalised as the model expects.
        labels: int64, of shape (batch,).

    Returns:
        A `signal` line for step 0, learning rate 0.
    """
    for noise in noise_of(model):
        noise.set(0, 0, images.device)
    hook = LayerStatsHook(model, make_forward(model, Execution()), every=1, total_steps=1)
    before = copy.deepcopy(model.state_dict())
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    model.zero_grad()
    try:
        with restored_modes(model):
            model.train()
            with hook.record(0) as stats:
                loss, _ = hook.forward(images, labels)
            assert stats is not None
            if math.isfinite(loss.item()):
                loss.backward()
        return stats.to_record(step=0, lr=0.0, loss=loss.item())
    finally:
        model.load_state_dict(before)
        for parameter, gradient in gradients:
            parameter.grad = gradient


def _round(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.{DIGITS}g}")
