"""How long a device needs for one training image: layer by layer, the slower of arithmetic and memory traffic.

Of devices this is the roofline model of Williams, Waterman and Patterson (2009). Normalisation, ReLU and addition are
nothing but traffic, and in 16 bits on today's devices take more than half of the time. No torch here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from resnetlab.models.cost import LayerCost
from resnetlab.planning.devices import Device

PASSES_CONV = 3
"""Forward, gradient of the input, gradient of the weights: each reads one map and another, or writes it."""
PASSES_NORM = 13
"""Times a map goes over the bus for normalisation and ReLU. Forward: statistics read it, scaling reads and writes, ReLU
reads and writes: 5. Backward: ReLU 3; sums read map and gradient, the result reads both and writes: 5."""
PASSES_ADD = 6
"""For a block's addition: two read, one written, forward and backward."""
ARITHMETIC = 0.50
"""Share of the peak of matrix units that large convolutions attain."""
ARITHMETIC_PLAIN = 0.85
"""Likewise where there are no matrix units for the precision (V100 in fp32)."""
TRAFFIC = 0.68
"""Share of the memory bandwidth that passes over maps attain. These three were chosen so that the errors of the figures
published for one device that are not held out (`published.py`) lie on both sides of zero; of the rest of the plan,
`TOGETHER` alone is fitted."""


@dataclass(frozen=True)
class ImageCost:
    """What one training image costs a device."""

    arithmetic_s: float
    """Of the layers that arithmetic limits."""
    traffic_s: float
    """Of those that memory limits."""

    @property
    def total_s(self) -> float:
        """Seconds."""
        return self.arithmetic_s + self.traffic_s


def image_cost(
    layers: Sequence[LayerCost], image_size: int, device: Device, *, half: bool, residual: bool
) -> ImageCost:
    """Return what a training step takes for each image of a large batch.

    `layers` are counted at `image_size` pixels a side (`models.cost`); `half` means 16-bit activations and products.
    """
    peak, size = (device.half, 2) if half else (device.single, 4)
    attained = ARITHMETIC if half or device.tensor_single else ARITHMETIC_PLAIN
    last = "bn3" if any(layer.name.endswith("bn3") for layer in layers) else "bn2"
    arithmetic = traffic = 0.0
    before = 3 * image_size**2
    for layer in layers:
        values = math.prod(layer.output_shape)
        moved = size * _passes(layer, before, values, last if residual else "") / (TRAFFIC * device.bandwidth)
        computed = 2 * PASSES_CONV * layer.macs / (attained * peak)
        if computed > moved:
            arithmetic += computed
        else:
            traffic += moved
        before = values
    return ImageCost(arithmetic, traffic)


def _passes(layer: LayerCost, before: int, values: int, last: str) -> float:
    """Return how many values of maps a layer moves over the bus; after a block's `last` layer comes the addition."""
    if layer.kind == "BatchNorm2d":
        added = PASSES_ADD if last and layer.name.endswith(f".{last}") else 0
        return (PASSES_NORM + added) * values
    return PASSES_CONV * (before + values)
