"""Where a result comes from: configuration, data, versions, machine."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

import resnetlab
from resnetlab.config import RunConfig, to_json
from resnetlab.data.sources import Dataset
from resnetlab.models.cost import cost
from resnetlab.models.resnet import ResNet


def run_line(config: RunConfig, dataset: Dataset, model: ResNet, device: torch.device) -> dict[str, Any]:
    """Return the record's `run` line: everything that is known before the first step."""
    counted = cost(model, dataset.preprocessing.image_size)
    return {
        **provenance(config, dataset),
        "arm": config.model.arm,
        "depth": config.model.depth,
        "params": counted.params,
        "macs": counted.macs,
        "machine": machine(device),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def provenance(config: RunConfig, dataset: Dataset) -> dict[str, Any]:
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
            "preprocessing": to_json(dataset.preprocessing),
        },
        "versions": {
            "resnetlab": resnetlab.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }


def machine(device: torch.device) -> dict[str, Any]:
    """Return what the run computes on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": device.type,
        "name": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")  # Linux; elsewhere the platform module knows
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
