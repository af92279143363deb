"""What devices can do at best, each number from its maker's data sheet; and cores of this machine. No torch here."""

import math
import os
from dataclasses import dataclass

from resnetlab.config import ConfigError
from resnetlab.system.cores import usable_cores

GB, GIB, TERA = 1e9, 2**30, 1e12


@dataclass(frozen=True)
class Device:
    """One accelerator, and how several are tied together; peaks that no program reaches."""

    name: str
    title: str
    memory_gib: float
    bandwidth: float
    """Bytes a second between the chip and its memory."""
    half: float
    """Multiply-adds and additions a second with 16-bit inputs, dense: 2 for a MAC."""
    single: float
    """Likewise with 32-bit inputs, as PyTorch does convolutions by default: TF32 where `tensor_single`."""
    tensor_single: bool
    """Whether matrix units take 32-bit inputs."""
    in_node: float
    """Bytes a second and device of an all-reduce inside a node (NCCL's bus bandwidth)."""
    between_nodes: float
    """Bytes a second and device that the network card carries."""
    per_node: int
    cores: int
    """Processor cores of the host for each device."""
    source: str
    framework_gib: float = 1.5
    """What a process holds before its first batch: context, code, workspaces. Assumed, not measured."""
    bf16: bool = True
    """Whether it computes in bf16, the 16 bits that resnetlab trains in; a V100 has fp16 alone."""


HERE = "here"
"""The name of a core of this machine, whose speed is measured."""
LOOPBACK = 0.87 * GB
"""Bytes a second of gloo's all-reduce between two processes of one machine: 10 to 100 MB, two cores of an AMD EPYC."""


DEVICES = {
    device.name: device
    for device in (
        Device(
            "v100",
            "V100 SXM2 (DGX-1)",
            32,
            900 * GB,
            125 * TERA,
            15.7 * TERA,
            False,
            130 * GB,
            6.25 * GB,
            8,
            5,
            "NVIDIA V100 data sheet; DGX-1: 4 x 100 Gb/s for 8 devices, 40 cores",
            bf16=False,
        ),
        Device(
            "a100-40gb",
            "A100 SXM 40 GB",
            40,
            1555 * GB,
            312 * TERA,
            156 * TERA,
            True,
            230 * GB,
            25 * GB,
            8,
            12,
            "NVIDIA A100 data sheet; p4d.24xlarge has 96 vCPUs; DGX A100: 200 Gb/s a device",
        ),
        Device(
            "a100",
            "A100 SXM 80 GB (DGX A100)",
            80,
            2039 * GB,
            312 * TERA,
            156 * TERA,
            True,
            230 * GB,
            25 * GB,
            8,
            16,
            "NVIDIA A100 and DGX A100 data sheets: 200 Gb/s a device, 128 cores",
        ),
        Device(
            "h100",
            "H100 SXM (DGX H100)",
            80,
            3350 * GB,
            989 * TERA,
            494 * TERA,
            True,
            360 * GB,
            50 * GB,
            8,
            14,
            "NVIDIA H100 and DGX H100 data sheets: 400 Gb/s a device, 112 cores",
        ),
        Device(
            "h200",
            "H200 SXM",
            141,
            4800 * GB,
            989 * TERA,
            494 * TERA,
            True,
            360 * GB,
            50 * GB,
            8,
            14,
            "NVIDIA H200 data sheet",
        ),
    )
}
"""By name. All-reduce inside a node: half of NVLink's total, less what nccl-tests commonly lose (86 to 77 %).
The host's cores are those of the machine that the source names."""


def device_named(name: str) -> Device:
    """Return a device of the table, or a core of this machine.

    Raises:
        ConfigError: for a name that is neither.
    """
    if name == HERE:
        return _core()
    if name not in DEVICES:
        raise ConfigError(
            f"device {name!r} is not known; known: {', '.join(DEVICES)}, and {HERE}, a core of this machine"
        )
    return DEVICES[name]


def _core() -> Device:
    """Return a core of this machine with its part of the memory; a process with one thread is such a device."""
    cores = usable_cores()
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB / cores
    return Device(
        HERE,
        "core of this machine",
        memory_gib,
        math.inf,
        math.inf,
        math.inf,
        False,
        LOOPBACK,
        LOOPBACK,
        cores,
        1,
        "measured when asked for",
        framework_gib=0.4,
    )
