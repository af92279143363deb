"""The prediction of a training's time, memory, network traffic, bottleneck and price on given devices."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from resnetlab.config import ConfigError
from resnetlab.models.cost import Cost
from resnetlab.planning.devices import GIB, Device
from resnetlab.planning.roofline import predict_image_time

GRADIENT_BYTES = 4
"""Bytes of a parameter's gradient: DistributedDataParallel sums gradients in fp32."""
STATE_BYTES = 12
"""Bytes of a parameter's weight, gradient and momentum, in fp32."""
HALF_BYTES = 2
"""Bytes of the 16-bit copy that autocast makes of a weight."""
BACKWARD_SHARE = 2 / 3
"""Share of a step in the backward pass, which overlaps with summing gradients: it has twice the multiply-adds of the
forward pass."""
MULTI_DEVICE_EFFICIENCY = 0.93
"""Share of a device's speed in a group of devices, besides the wait for gradients. In the published figures that are
not held out, eight devices do the work of 6.7 to 7.8."""
LAUNCH_S = 10.4e-3 / 161
"""Seconds in which the host launches one operation. NVIDIA's ResNet-50 (161 operations by `count_operations`) takes
10.4 ms forward for one image, however fast the device (DeepLearningExamples, V100 fp32, batch 1). A newer host may take
half."""
LAUNCH_PASSES = 2
"""Forward and backward; the backward pass launches twice as many kernels, without Python in between."""
HOP_S = 15e-6
"""Latency of one hop of an all-reduce between nodes; assumed."""
MAX_ACCURATE_BATCH = 8192
"""Images of a step up to which SGD with a warm-up loses no accuracy (Goyal et al., 2017, Figure 1)."""
MIN_NORM_BATCH = 32
"""Images of a device that suffice for BN's statistics (as used by Goyal et al., 2017)."""


class CostAtSize(NamedTuple):
    """A network's cost for one image of a given size."""

    cost: Cost
    image_size: int
    """Side of the images, in pixels."""
    share: float
    """Share of the epochs with this size."""


@dataclass(frozen=True)
class Workload:
    """The training to predict: a network, the number and size of the images, and the steps."""

    costs: Sequence[CostAtSize]
    """The network's cost at each image size of the training."""
    residual: bool
    """Whether blocks have shortcuts."""
    num_images: int
    """Images of the training split."""
    image_bytes: float
    """Mean size of an encoded image; 0 if training reads no images from storage."""
    steps: int
    batch_size: int
    """Images of a step, over all devices."""
    half: bool = True
    """Whether activations and products have 16 bits."""
    tf32: bool = False
    """Whether products of 32-bit activations are computed in TF32."""

    @property
    def precision(self) -> str:
        """Precision of the products, as `train --precision` names it."""
        return "bf16" if self.half else "tf32" if self.tf32 else "fp32"

    @property
    def params(self) -> int:
        """Number of trainable parameters."""
        return self.costs[0].cost.params

    @property
    def epochs(self) -> float:
        """Passes over the images."""
        return self.steps / max(1, self.num_images // self.batch_size)


@dataclass(frozen=True)
class Cluster:
    """The devices of a training, their hosts and their storage."""

    num_devices: int
    device: Device
    decode_s: float
    """Seconds in which one core decodes, crops and resizes an image."""
    storage_bytes_per_s: float | None = None
    """Bandwidth of the storage for all devices together; `None` means no limit."""
    price_per_hour: float | None = None
    """Price of one device."""
    image_s: float | None = None
    """Measured seconds of one device for a training image; `None` means that they are predicted."""


@dataclass(frozen=True)
class Plan:
    """The predicted speed, time, traffic, memory and price of a training. `resnetlab plan --json` prints all fields."""

    images_per_s: float
    hours: float
    limits: dict[str, float]
    """Images per second that each resource alone allows, over all devices. Resources without a limit are absent."""
    bottleneck: str
    """The resource with the lowest limit; `communication` if devices mostly wait for gradients."""
    step_s: float
    exchange_s: float
    """Time to sum the gradients of a step."""
    exposed_s: float
    """The part of `exchange_s` that does not overlap with computation."""
    exchange_bytes: float
    """Bytes that each device sends in a step."""
    storage_bytes_per_s: float
    """Bandwidth that the storage must provide at this speed."""
    memory_gib: float
    """Memory of each device."""
    steps: int
    money: float | None
    notes: tuple[str, ...]
    """Warnings, each with a remedy."""


def plan(work: Workload, cluster: Cluster) -> Plan:
    """Predict a training. If it does not fit into a device's memory, a note says what would fit.

    Raises:
        ConfigError: If a step has fewer than two images for each device.
    """
    if work.batch_size < 2 * cluster.num_devices:
        raise ConfigError(
            f"{work.batch_size:,} images a step leave some of {cluster.num_devices:,} devices with fewer than 2"
            "; use a larger --batch-size or fewer --devices"
        )
    device_batch = math.ceil(work.batch_size / cluster.num_devices)  # the other devices wait for the fullest one
    compute_s = predict_image_s(work, cluster) * device_batch
    sent_bytes, exchange_s = gradient_exchange(work.params, cluster)
    exposed_s = max(0.0, exchange_s - BACKWARD_SHARE * compute_s)
    busy_s = (compute_s + exposed_s) / (MULTI_DEVICE_EFFICIENCY if cluster.num_devices > 1 else 1)
    limits = {"devices": work.batch_size / busy_s}
    if cluster.image_s is None:  # a measured time includes the launches
        limits["launches"] = work.batch_size / (LAUNCH_PASSES * LAUNCH_S * count_operations(work))
    if cluster.decode_s:
        limits["decoding"] = cluster.device.cores * cluster.num_devices / cluster.decode_s
    if cluster.storage_bytes_per_s is not None and work.image_bytes:
        limits["storage"] = cluster.storage_bytes_per_s / work.image_bytes
    bottleneck = min(limits, key=lambda resource: limits[resource])
    images_per_s = limits[bottleneck]
    if bottleneck == "devices" and exposed_s > compute_s / 2:
        bottleneck = "communication"
    step_s = work.batch_size / images_per_s
    hours = work.steps * step_s / 3600
    price = cluster.price_per_hour
    prediction = Plan(
        images_per_s=images_per_s,
        hours=hours,
        limits=limits,
        bottleneck=bottleneck,
        step_s=step_s,
        exchange_s=exchange_s,
        exposed_s=exposed_s,
        exchange_bytes=sent_bytes,
        storage_bytes_per_s=images_per_s * work.image_bytes,
        memory_gib=device_memory_gib(work, cluster.device, device_batch),
        steps=work.steps,
        money=None if price is None else hours * cluster.num_devices * price,
        notes=(),
    )
    return replace(prediction, notes=tuple(_notes(prediction, work, cluster, device_batch)))


def gradient_exchange(params: int, cluster: Cluster) -> tuple[float, float]:
    """Return the bytes that each device sends to sum a step's gradients, and the seconds that the sum takes.

    Gradients are summed in a ring inside each node, and in one ring between nodes for each device's share. Each device
    sends 2 (n - 1) / n of the gradients (Patarasuk and Yuan, 2009).
    """
    n, device = cluster.num_devices, cluster.device
    if n == 1:
        return 0.0, 0.0
    gradient_bytes = GRADIENT_BYTES * params
    local = min(n, device.devices_per_node)
    nodes = math.ceil(n / device.devices_per_node)
    sent_bytes = 2 * (n - 1) / n * gradient_bytes
    inside_s = 2 * (local - 1) / local * gradient_bytes / device.node_bytes_per_s
    latency_s = 2 * math.log2(nodes) * HOP_S
    between_s = 2 * (nodes - 1) / nodes * gradient_bytes / local / device.network_bytes_per_s + latency_s
    return sent_bytes, inside_s + between_s


def device_memory_gib(work: Workload, device: Device, batch_size: int) -> float:
    """Return the memory that a device needs for `batch_size` images of the largest size, in GiB."""
    return _fixed_memory_gib(work, device) + batch_size * image_memory_gib(work)


def image_memory_gib(work: Workload) -> float:
    """Return the memory of one image and of its activations that autograd saves, in GiB."""
    cost, image_size, _ = max(work.costs, key=lambda item: item.image_size)
    # The indices of the max pool have 64 bits in any precision.
    pool_bytes = sum(layer.activation_bytes for layer in cost.layers if layer.kind == "MaxPool2d")
    num_values = 3 * image_size**2
    if work.half:
        return ((cost.activation_bytes - pool_bytes) / 2 + pool_bytes + 6 * num_values) / GIB
    return (cost.activation_bytes + 4 * num_values) / GIB


def count_operations(work: Workload) -> int:
    """Return the number of operations of a forward pass: one for each layer, and a ReLU after each normalisation."""
    return sum(2 if layer.kind == "BatchNorm2d" else 1 for layer in work.costs[0].cost.layers)


def predict_image_s(work: Workload, cluster: Cluster) -> float:
    """Return one device's seconds for a training image, averaged over the image sizes; a measured time if there is one.

    The launches of the host are not included in a prediction.
    """
    if cluster.image_s is not None:
        return cluster.image_s
    return sum(
        share
        * predict_image_time(
            cost.layers, image_size, cluster.device, half=work.half, residual=work.residual, tf32=work.tf32
        ).total_s
        for cost, image_size, share in work.costs
    )


def _fixed_memory_gib(work: Workload, device: Device) -> float:
    """Return the memory that a device needs whatever its number of images, in GiB."""
    param_bytes = STATE_BYTES + (HALF_BYTES if work.half else 0)
    return device.framework_gib + param_bytes * work.params / GIB


def _notes(prediction: Plan, work: Workload, cluster: Cluster, device_batch: int) -> list[str]:
    """Return warnings about memory, accuracy and idle devices, each with a remedy."""
    notes = []
    device = cluster.device
    if prediction.memory_gib > device.memory_gib:
        fit = int((0.95 * device.memory_gib - _fixed_memory_gib(work, device)) / image_memory_gib(work))
        remedy = f"train with --grad-accum-steps {math.ceil(device_batch / fit)}, or use" if fit >= 2 else "use"
        notes.append(
            f"does not fit: a device holds {max(0, fit):,} images and has {device_batch:,}; {remedy} more devices"
        )
    if work.batch_size > MAX_ACCURATE_BATCH:
        notes.append(
            f"above {MAX_ACCURATE_BATCH:,} images a step SGD loses accuracy even with a warm-up (Goyal et al., 2017), "
            f"and LARS is not available; --batch-size {MAX_ACCURATE_BATCH} is safe"
        )
    if device_batch < MIN_NORM_BATCH and cluster.num_devices > 1:
        notes.append(
            f"{device_batch} images on a device are few for batch normalisation; train with --sync-bn, or use fewer "
            "devices"
        )
    if prediction.bottleneck == "launches":
        idle_pct = 100 * (1 - prediction.limits["launches"] / prediction.limits["devices"])
        remedies = ["a larger --batch-size"] if work.batch_size < MAX_ACCURATE_BATCH else []
        remedies += ["fewer --devices"] if cluster.num_devices > 1 else []
        remedy = f"; {' or '.join(remedies)} would use it better" if remedies else ""
        notes.append(
            f"a device with {device_batch} images waits for its host to launch operations for {idle_pct:.0f} % of the "
            f"time{remedy}"
        )
    return notes
