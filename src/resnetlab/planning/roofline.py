"""The time that a device needs for one training image: per layer, the slower of arithmetic and memory traffic.

This is the roofline model of Williams, Waterman and Patterson (2009). Normalisation, ReLU and addition cause only
traffic, which takes more than half of the time in 16 bits on current devices.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from resnetlab.models.cost import LayerCost
from resnetlab.planning.devices import Device

CONV_PASSES = 3
"""Passes of a convolution over its input and output maps: forward, gradient of the input, gradient of the weights.
Each pass reads one map and reads or writes another."""
NORM_PASSES = 13
"""Passes over a map for normalisation and ReLU. Forward 5: statistics read it, scaling reads and writes, ReLU reads and
writes. Backward 8: ReLU 3; the sums read map and gradient, the result reads both and writes: 5."""
ADD_PASSES = 6
"""Passes for a block's addition: two maps read and one written, forward and backward."""
TENSOR_EFFICIENCY = 0.50
"""Share of the peak of matrix units that large convolutions attain."""
SCALAR_EFFICIENCY = 0.85
"""Share of the peak without matrix units (fp32)."""
MEMORY_EFFICIENCY = 0.68
"""Share of the memory bandwidth that passes over maps attain.

The three efficiencies were set such that the prediction errors for the single-device figures that are not held out
(`published_speeds.py`) lie on both sides of zero. `MULTI_DEVICE_EFFICIENCY` is the only other fitted constant.
"""


@dataclass(frozen=True)
class ImageTime:
    """Predicted time of one device for a training image."""

    arithmetic_s: float
    """Time of the layers that arithmetic limits."""
    traffic_s: float
    """Time of the layers that memory bandwidth limits."""

    @property
    def total_s(self) -> float:
        """Seconds for one image."""
        return self.arithmetic_s + self.traffic_s


def predict_image_time(
    layers: Sequence[LayerCost], image_size: int, device: Device, *, half: bool, residual: bool, tf32: bool = False
) -> ImageTime:
    """Return the predicted time for each image of a training step with a large batch.

    Args:
        layers: The network's layers, counted at `image_size` (`models.cost`).
        image_size: Side of the images, in pixels.
        device: The device.
        half: Whether activations and products have 16 bits.
        residual: Whether each block ends with an addition.
        tf32: Whether products of 32-bit activations are computed in TF32, on a device that can.
    """
    value_bytes = 2 if half else 4
    if half:
        peak, efficiency = device.half_ops_per_s, TENSOR_EFFICIENCY
    elif tf32 and device.tf32_ops_per_s is not None:
        peak, efficiency = device.tf32_ops_per_s, TENSOR_EFFICIENCY
    else:
        peak, efficiency = device.single_ops_per_s, SCALAR_EFFICIENCY
    last_norm = "bn3" if any(layer.name.endswith("bn3") for layer in layers) else "bn2"
    arithmetic_s = traffic_s = 0.0
    num_inputs = 3 * image_size**2
    for layer in layers:
        num_outputs = math.prod(layer.output_shape)
        moved_bytes = value_bytes * _moved_values(layer, num_inputs, num_outputs, last_norm if residual else "")
        moved_s = moved_bytes / (MEMORY_EFFICIENCY * device.memory_bytes_per_s)
        computed_s = 2 * CONV_PASSES * layer.macs / (efficiency * peak)
        if computed_s > moved_s:
            arithmetic_s += computed_s
        else:
            traffic_s += moved_s
        num_inputs = num_outputs
    return ImageTime(arithmetic_s, traffic_s)


def _moved_values(layer: LayerCost, num_inputs: int, num_outputs: int, last_norm: str) -> int:
    """Return the number of values that a layer reads and writes; a block's addition counts with its `last_norm`."""
    if layer.kind == "BatchNorm2d":
        add_passes = ADD_PASSES if last_norm and layer.name.endswith(f".{last_norm}") else 0
        return (NORM_PASSES + add_passes) * num_outputs
    return CONV_PASSES * (num_inputs + num_outputs)
