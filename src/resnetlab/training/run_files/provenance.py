"""The provenance of a result: configuration, data, versions and machine."""

import hashlib
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

import resnetlab
from resnetlab.config import Preprocessing, RunConfig
from resnetlab.data.dataset import Dataset
from resnetlab.serialization import to_json


def provenance(config: RunConfig, dataset: Dataset, preprocessing: Preprocessing) -> dict[str, Any]:
    """Return what a result depends on: resolved configuration, data and its fingerprint, versions."""
    return {
        "config": to_json(config),
        "data": {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "classes": list(dataset.classes),
            "num_train": len(dataset.train),
            "num_val": len(dataset.val),
            "num_test": len(dataset.test),
            "preprocessing": _short(preprocessing),
        },
        "versions": {
            "resnetlab": resnetlab.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }


def _short(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return the preprocessing with a digest in place of a mean image of thousands of numbers."""
    values = to_json(preprocessing)
    mean = values.pop("pixel_mean")
    return {**values, "pixel_mean_sha256": hashlib.sha256(repr(mean).encode()).hexdigest()} if mean else values


def machine(device: torch.device) -> dict[str, Any]:
    """Return the device, processor, cores, threads and operating system of this process.

    On a GPU it also has `fp32_is_not_tf32`, which records lack that were written while fp32 meant either.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": device.type,
        "name": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        **({"fp32_is_not_tf32": True} if device.type == "cuda" else {}),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")  # Linux; elsewhere the platform module knows
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
