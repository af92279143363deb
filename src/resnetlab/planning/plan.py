"""A training, and the devices for it → time, memory, traffic, what holds the rest back, and money."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from resnetlab.config import ConfigError
from resnetlab.models.cost import Cost
from resnetlab.planning.devices import GIB, Device
from resnetlab.planning.step import image_cost

GRADIENT_BYTES = 4
"""Of each parameter: DistributedDataParallel sums gradients in fp32."""
STATE_BYTES = 12
"""Of each parameter: weight, gradient and momentum, in fp32."""
FRAMEWORK_GIB = 1.5
"""CUDA's context and the libraries' workspaces, about."""
BACKWARD = 2 / 3
"""Share of a step that is the backward pass, in which gradients are summed while others are still computed."""
TOGETHER = 0.93
"""Share of its speed that a device keeps when it works with others, beyond what is waited for: the eight devices of the
published figures do the work of 6.7 to 7.8."""
LAUNCH_S = 5e-6
"""Of one kernel: however few images there are, a step takes no less than its launches."""
HOP_S = 15e-6
"""Latency of one hop of an all-reduce between nodes."""
ACCURATE_BATCH = 8192
"""Images of a step up to which SGD with a warm-up loses no accuracy (Goyal et al., 2017, Figure 1)."""


@dataclass(frozen=True)
class Work:
    """What is to be done."""

    counted: Sequence[tuple[Cost, int, float]]
    """The network's cost for one image of a side in pixels, and the share of epochs at that side."""
    residual: bool
    num_images: int
    """Of the training split."""
    image_bytes: float
    """Of an encoded image, on average."""
    epochs: float
    batch_size: int
    """Images of a step, over all devices."""
    half: bool = True
    """16-bit activations and products."""


@dataclass(frozen=True)
class Hosts:
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
    """Images a second that each part alone allows, over all devices."""
    bottleneck: str
    """Which of them is the least."""
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


def plan(work: Work, hosts: Hosts) -> Plan:
    """Predict a training.

    Raises:
        ConfigError: where a step has fewer images than there are devices, or a device's part does not fit its memory.
    """
    each = work.batch_size / hosts.devices
    if each < 1:
        raise ConfigError(f"a step of {work.batch_size} images cannot be shared by {hosts.devices} devices")
    compute_s = max(image_s(work, hosts) * each, LAUNCH_S * launches(work))
    params = work.counted[0][0].params
    sent, exchange_s = exchange(params, hosts)
    exposed_s = max(0.0, exchange_s - BACKWARD * compute_s)
    step_s = (compute_s + exposed_s) / (TOGETHER if hosts.devices > 1 else 1)
    cores = hosts.device.cores * hosts.devices
    limits = {
        "devices": work.batch_size / step_s,
        "decoding": cores / hosts.decode_s if hosts.decode_s else math.inf,
        "storage": hosts.storage / work.image_bytes if hosts.storage else math.inf,
    }
    bottleneck = min(limits, key=lambda part: limits[part])
    speed = limits[bottleneck]
    if bottleneck == "devices" and exposed_s > compute_s / 2:
        bottleneck = "communication"
    hours = work.num_images * work.epochs / speed / 3600
    money = None if hosts.price_per_hour is None else hours * hosts.devices * hosts.price_per_hour
    made = Plan(
        speed, hours, limits, bottleneck, work.batch_size / speed, exchange_s, exposed_s, sent,
        speed * work.image_bytes, memory_gib(work, each), math.ceil(work.num_images * work.epochs / work.batch_size),
        money, (),
    )  # fmt: skip
    return replace(made, notes=tuple(_notes(made, work, hosts)))


def exchange(params: int, hosts: Hosts) -> tuple[float, float]:
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


def memory_gib(work: Work, batch_size: float) -> float:
    """Return what a device needs for its part of a step, at the largest side of the images."""
    cost = max((cost for cost, _, _ in work.counted), key=lambda cost: cost.activation_bytes)
    activations = cost.activation_bytes * batch_size / (2 if work.half else 1)
    return (STATE_BYTES * cost.params + activations) / GIB + FRAMEWORK_GIB


def launches(work: Work) -> int:
    """Return how many kernels a step launches, about: three for a convolution, five for normalisation and ReLU."""
    cost, _, _ = work.counted[0]
    return sum({"Conv2d": 3, "BatchNorm2d": 5}.get(layer.kind, 3) for layer in cost.layers)


def image_s(work: Work, hosts: Hosts) -> float:
    """Return the seconds of one device for a training image, on average over the sides at which images are shown."""
    if hosts.image_s is not None:
        return hosts.image_s
    return sum(
        share * image_cost(cost.layers, size, hosts.device, half=work.half, residual=work.residual).total_s
        for cost, size, share in work.counted
    )


def _notes(made: Plan, work: Work, hosts: Hosts) -> list[str]:
    """Say what a person should know before they believe it."""
    notes = []
    if made.memory_gib > hosts.device.memory_gib:
        fits = math.floor(work.batch_size / hosts.devices * hosts.device.memory_gib / made.memory_gib * 0.95)
        notes.append(f"does not fit: {made.memory_gib:.0f} of {hosts.device.memory_gib:g} GiB a device; at most about "
                     f"{fits} images a device, with more devices or gradient accumulation")  # fmt: skip
    if work.batch_size > ACCURATE_BATCH:
        notes.append(f"a step of {work.batch_size:,} images: beyond {ACCURATE_BATCH:,} plain SGD loses accuracy "
                     "(Goyal et al., 2017)")  # fmt: skip
    if work.batch_size / hosts.devices < 32:
        notes.append(f"{work.batch_size / hosts.devices:g} images a device: too few to fill one; expect less speed")
    return notes
