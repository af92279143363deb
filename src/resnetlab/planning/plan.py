"""A training, and the devices for it → time, memory, traffic, what holds the rest back, and money."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from resnetlab.config import ConfigError
from resnetlab.models.cost import Cost
from resnetlab.planning.devices import GIB, Device
from resnetlab.planning.roofline import image_cost

GRADIENT_BYTES = 4
"""Of each parameter: DistributedDataParallel sums gradients in fp32."""
STATE_BYTES = 12
"""Of each parameter: weight, gradient and momentum, in fp32."""
HALF_BYTES = 2
"""Of each parameter, where products are of 16 bits: the copy that autocast makes of the weights."""
BACKWARD = 2 / 3
"""Share of a step that is the backward pass, in which gradients are summed while others are still computed: twice the
multiply-adds of the forward pass."""
TOGETHER = 0.93
"""Share of its speed that a device keeps when it works with others, beyond what is waited for: the eight devices of the
published figures that are not held out do the work of 6.7 to 7.8."""
HOST_S = 10.4e-3 / 161
"""Of the host to launch one operation: NVIDIA's ResNet-50 (161 of them, as `operations` counts) takes 10.4 ms forward
for one image, however fast the device (DeepLearningExamples, V100 fp32, batch 1). A newer host may take half."""
HOST_PASSES = 2
"""Forward and backward; the latter launches twice as many kernels, without Python in between."""
HOP_S = 15e-6
"""Latency of one hop of an all-reduce between nodes; assumed."""
ACCURATE_BATCH = 8192
"""Images of a step up to which SGD with a warm-up loses no accuracy (Goyal et al., 2017, Figure 1)."""
NORMALISED = 32
"""Images of a device for which BN's statistics are known to do (Goyal et al., 2017, use so many)."""


@dataclass(frozen=True)
class Workload:
    """What is to be done."""

    counted: Sequence[tuple[Cost, int, float]]
    """The network's cost for one image of a side in pixels, and the share of epochs at that side."""
    residual: bool
    num_images: int
    """Of the training split."""
    image_bytes: float
    """Of an encoded image, on average."""
    steps: int
    batch_size: int
    """Images of a step, over all devices."""
    half: bool = True
    """16-bit activations and products."""

    @property
    def epochs(self) -> float:
        """Passes over the images."""
        return self.steps / max(1, self.num_images // self.batch_size)


@dataclass(frozen=True)
class Cluster:
    """What surrounds the devices."""

    devices: int
    device: Device
    decode_s: float
    """Seconds of one core for each image: decoding, cropping, resizing."""
    storage: float | None = None
    """Bytes a second that storage gives, over all; unlimited if not given."""
    price_per_hour: float | None = None
    """Of one device."""
    image_s: float | None = None
    """Seconds that one device was measured to need for a training image; predicted if not given."""


@dataclass(frozen=True)
class Plan:
    """What it will take."""

    images_per_s: float
    hours: float
    limits: dict[str, float]
    """Images a second that each part alone allows, over all devices; what sets no limit is left out."""
    bottleneck: str
    """Which of them is the least; `communication` where devices mostly wait for gradients."""
    step_s: float
    exchange_s: float
    """Summing the gradients of a step, of which `exposed_s` is waited for."""
    exposed_s: float
    exchange_bytes: float
    """What each device sends for a step."""
    storage_bytes_per_s: float
    """What storage must give for that speed."""
    memory_gib: float
    """Of each device."""
    steps: int
    money: float | None
    notes: tuple[str, ...]


def plan(work: Workload, hosts: Cluster) -> Plan:
    """Predict a training; what does not fit a device's memory is said in the notes.

    Raises:
        ConfigError: where a step has fewer than two images for each device.
    """
    if work.batch_size < 2 * hosts.devices:
        raise ConfigError(
            f"{work.batch_size:,} images a step leave some of {hosts.devices:,} devices with fewer than 2"
            "; use a larger --batch-size or fewer --devices"
        )
    each = math.ceil(work.batch_size / hosts.devices)  # the others wait for the one that has most
    compute_s = image_s(work, hosts) * each
    sent, exchange_s = gradient_exchange(work.counted[0][0].params, hosts)
    exposed_s = max(0.0, exchange_s - BACKWARD * compute_s)
    busy_s = (compute_s + exposed_s) / (TOGETHER if hosts.devices > 1 else 1)
    limits = {"devices": work.batch_size / busy_s}
    if hosts.image_s is None:  # what is measured has it in it
        limits["launches"] = work.batch_size / (HOST_PASSES * HOST_S * operations(work))
    if hosts.decode_s:
        limits["decoding"] = hosts.device.cores * hosts.devices / hosts.decode_s
    if hosts.storage is not None and work.image_bytes:
        limits["storage"] = hosts.storage / work.image_bytes
    bottleneck = min(limits, key=lambda part: limits[part])
    speed = limits[bottleneck]
    if bottleneck == "devices" and exposed_s > compute_s / 2:
        bottleneck = "communication"
    step_s = work.batch_size / speed
    hours = work.steps * step_s / 3600
    money = None if hosts.price_per_hour is None else hours * hosts.devices * hosts.price_per_hour
    made = Plan(
        speed,
        hours,
        limits,
        bottleneck,
        step_s,
        exchange_s,
        exposed_s,
        sent,
        speed * work.image_bytes,
        memory_gib(work, hosts.device, each),
        work.steps,
        money,
        (),
    )
    return replace(made, notes=tuple(_notes(made, work, hosts, each)))


def gradient_exchange(params: int, hosts: Cluster) -> tuple[float, float]:
    """Return what each device sends to sum a step's gradients, in bytes, and how long that takes, in seconds.

    A ring inside each node, and between nodes a ring for each device's share (Patarasuk and Yuan, 2009): each sends
    2 (n - 1) / n of the gradients.
    """
    n, device = hosts.devices, hosts.device
    if n == 1:
        return 0.0, 0.0
    whole = GRADIENT_BYTES * params
    local = min(n, device.per_node)
    nodes = math.ceil(n / device.per_node)
    sent = 2 * (n - 1) / n * whole
    inside = 2 * (local - 1) / local * whole / device.in_node
    between = 2 * (nodes - 1) / nodes * whole / local / device.between_nodes + 2 * math.log2(nodes) * HOP_S
    return sent, inside + between


def memory_gib(work: Workload, device: Device, batch_size: int) -> float:
    """Return what a device needs for its part of a step, at the largest side of the images."""
    return _fixed_gib(work, device) + batch_size * image_gib(work)


def image_gib(work: Workload) -> float:
    """Return what autograd keeps of one image, the image included; indices of the max pool have 64 bits in any case."""
    cost, size, _ = max(work.counted, key=lambda some: some[1])
    pools = sum(layer.activation_bytes for layer in cost.layers if layer.kind == "MaxPool2d")
    pixels = 3 * size**2
    if work.half:
        return ((cost.activation_bytes - pools) / 2 + pools + 6 * pixels) / GIB
    return (cost.activation_bytes + 4 * pixels) / GIB


def operations(work: Workload) -> int:
    """Return how many operations a forward pass launches: one for each layer, and ReLU after each normalisation."""
    return sum(2 if layer.kind == "BatchNorm2d" else 1 for layer in work.counted[0][0].layers)


def image_s(work: Workload, hosts: Cluster) -> float:
    """Return the seconds of one device for a training image, on average over the sides at which images are shown."""
    if hosts.image_s is not None:
        return hosts.image_s
    return sum(
        share * image_cost(cost.layers, size, hosts.device, half=work.half, residual=work.residual).total_s
        for cost, size, share in work.counted
    )


def _fixed_gib(work: Workload, device: Device) -> float:
    """Return what a device needs, however few images it has."""
    each = STATE_BYTES + (HALF_BYTES if work.half else 0)
    return device.framework_gib + each * work.counted[0][0].params / GIB


def _notes(made: Plan, work: Workload, hosts: Cluster, each: int) -> list[str]:
    """Say what a person should know before they believe it."""
    notes = []
    if made.memory_gib > hosts.device.memory_gib:
        fit = int((0.95 * hosts.device.memory_gib - _fixed_gib(work, hosts.device)) / image_gib(work))
        parts = f"train with --grad-accum-steps {math.ceil(each / fit)}, or take" if fit >= 2 else "take"
        notes.append(f"does not fit: {max(0, fit):,} images a device do, and it has {each:,}; {parts} more devices")
    if work.batch_size > ACCURATE_BATCH:
        notes.append(
            f"beyond {ACCURATE_BATCH:,} images a step SGD loses accuracy, warm-up or not (Goyal et al., 2017)"
            f", and there is no LARS here; --batch-size {ACCURATE_BATCH} is safe"
        )
    if each < NORMALISED and hosts.devices > 1:
        notes.append(f"{each} images a device are few to normalise over; train with --sync-bn, or take fewer devices")
    if made.bottleneck == "launches":
        idle_pct = 100 * (1 - made.limits["launches"] / made.limits["devices"])
        ways = ["a larger --batch-size"] if work.batch_size < ACCURATE_BATCH else []
        ways += ["fewer --devices"] if hosts.devices > 1 else []
        busy = f"; {' or '.join(ways)} would keep it busy" if ways else ""
        notes.append(
            f"a device with {each} images waits for its host to launch operations for {idle_pct:.0f} % of the "
            f"time{busy}"
        )
    return notes
