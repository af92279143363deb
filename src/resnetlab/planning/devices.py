"""Peak speeds of accelerators, from their makers' data sheets, and cores of this machine as devices."""

import math
import os
from dataclasses import dataclass

from resnetlab.config import ConfigError
from resnetlab.system.cores import usable_cores

GB, GIB, TERA = 1e9, 2**30, 1e12


@dataclass(frozen=True)
class Device:
    """One accelerator and its links to others. Speeds are peaks, which no program reaches."""

    name: str
    title: str
    memory_gib: float
    memory_bytes_per_s: float
    """Bandwidth between the chip and its memory."""
    half_ops_per_s: float
    """Peak speed with 16-bit inputs, dense. A MAC counts as two operations."""
    single_ops_per_s: float
    """Peak speed in fp32, without matrix units."""
    node_bytes_per_s: float
    """Bandwidth of an all-reduce inside a node, for each device (NCCL's bus bandwidth)."""
    network_bytes_per_s: float
    """Bandwidth between nodes, for each device."""
    devices_per_node: int
    cores: int
    """Processor cores of the host for each device."""
    source: str
    framework_gib: float = 1.5
    """Memory of a process before its first batch: context, code, workspaces. Assumed, not measured."""
    tf32_ops_per_s: float | None = None
    """Peak speed of the matrix units in TF32, dense; `None` if they do not take 32-bit inputs."""
    bf16: bool = True
    """Whether the device computes in bf16, the 16-bit type in which resnetlab trains. A V100 has only fp16."""


HERE = "here"
"""Name of the device that stands for one core of this machine. Its speed is measured."""
LOOPBACK_BYTES_PER_S = 0.87 * GB
"""Bandwidth of gloo's all-reduce between two processes of one machine: 10 to 100 MB, two cores of an AMD EPYC."""


DEVICES = {
    device.name: device
    for device in (
        Device(
            name="v100",
            title="V100 SXM2 (DGX-1)",
            memory_gib=32,
            memory_bytes_per_s=900 * GB,
            half_ops_per_s=125 * TERA,
            single_ops_per_s=15.7 * TERA,
            node_bytes_per_s=130 * GB,
            network_bytes_per_s=6.25 * GB,
            devices_per_node=8,
            cores=5,
            source="NVIDIA V100 data sheet; DGX-1: 4 x 100 Gb/s for 8 devices, 40 cores",
            bf16=False,
        ),
        Device(
            name="a100-40gb",
            title="A100 SXM 40 GB",
            memory_gib=40,
            memory_bytes_per_s=1555 * GB,
            half_ops_per_s=312 * TERA,
            single_ops_per_s=19.5 * TERA,
            tf32_ops_per_s=156 * TERA,
            node_bytes_per_s=230 * GB,
            network_bytes_per_s=25 * GB,
            devices_per_node=8,
            cores=12,
            source="NVIDIA A100 data sheet; p4d.24xlarge has 96 vCPUs; DGX A100: 200 Gb/s a device",
        ),
        Device(
            name="a100",
            title="A100 SXM 80 GB (DGX A100)",
            memory_gib=80,
            memory_bytes_per_s=2039 * GB,
            half_ops_per_s=312 * TERA,
            single_ops_per_s=19.5 * TERA,
            tf32_ops_per_s=156 * TERA,
            node_bytes_per_s=230 * GB,
            network_bytes_per_s=25 * GB,
            devices_per_node=8,
            cores=16,
            source="NVIDIA A100 and DGX A100 data sheets: 200 Gb/s a device, 128 cores",
        ),
        Device(
            name="h100",
            title="H100 SXM (DGX H100)",
            memory_gib=80,
            memory_bytes_per_s=3350 * GB,
            half_ops_per_s=989 * TERA,
            single_ops_per_s=67 * TERA,
            tf32_ops_per_s=494 * TERA,
            node_bytes_per_s=360 * GB,
            network_bytes_per_s=50 * GB,
            devices_per_node=8,
            cores=14,
            source="NVIDIA H100 and DGX H100 data sheets: 400 Gb/s a device, 112 cores",
        ),
        Device(
            name="h200",
            title="H200 SXM",
            memory_gib=141,
            memory_bytes_per_s=4800 * GB,
            half_ops_per_s=989 * TERA,
            single_ops_per_s=67 * TERA,
            tf32_ops_per_s=494 * TERA,
            node_bytes_per_s=360 * GB,
            network_bytes_per_s=50 * GB,
            devices_per_node=8,
            cores=14,
            source="NVIDIA H200 data sheet",
        ),
    )
}
"""Devices by name.

The all-reduce inside a node runs at 77 to 86 % of half of NVLink's total, as nccl-tests commonly measure. The host's
cores are those of the machine that the source names.
"""


def find_device(name: str) -> Device:
    """Return a device of the table, or for `here` a core of this machine.

    Raises:
        ConfigError: If no device has this name.
    """
    if name == HERE:
        return _local_core()
    if name not in DEVICES:
        raise ConfigError(
            f"device {name!r} is unknown; use one of {', '.join(DEVICES)}, or {HERE} for a core of this machine"
        )
    return DEVICES[name]


def _local_core() -> Device:
    """Return a core of this machine with its share of the memory; a single-threaded process is such a device."""
    cores = usable_cores()
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB / cores
    return Device(
        name=HERE,
        title="core of this machine",
        memory_gib=memory_gib,
        memory_bytes_per_s=math.inf,
        half_ops_per_s=math.inf,
        single_ops_per_s=math.inf,
        node_bytes_per_s=LOOPBACK_BYTES_PER_S,
        network_bytes_per_s=LOOPBACK_BYTES_PER_S,
        devices_per_node=cores,
        cores=1,
        source="measured on demand",
        framework_gib=0.4,
    )
