"""Where a result comes from: configuration, data, versions, machine."""

import hashlib
import math
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

import resnetlab
from resnetlab.config import Preprocessing, Recipe, RunConfig
from resnetlab.data.dataset import Dataset
from resnetlab.models.resnet import ResNet
from resnetlab.serialization import to_json


def run_line(
    config: RunConfig, dataset: Dataset, preprocessing: Preprocessing, model: ResNet, macs: int, device: torch.device
) -> dict[str, Any]:
    """Return the record's `run` line: everything that is known before the first step. `macs` are for one image."""
    return {
        **provenance(config, dataset, preprocessing),
        "arm": config.model.arm,
        "depth": config.model.depth,
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "macs": macs,
        "machine": machine(device),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


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


def describe(
    config: RunConfig, dataset: Dataset, preprocessing: Preprocessing, way: str, total_steps: int, epoch_steps: int
) -> list[str]:
    """Return what a person reads before the first step: network, data, recipe, and how it is computed."""
    model, recipe = config.model, config.recipe
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in dataset.splits.items())
    schedule = {
        "step": "/10 at " + ", ".join(f"{math.ceil(m * total_steps):,}" for m in recipe.milestones),
        "plateau": f"/10 after {recipe.patience} epochs without a lower validation error",
    }.get(recipe.schedule, recipe.schedule)
    if recipe.initial_lr is not None:
        schedule += f", {recipe.initial_lr:g} until the training error is below {recipe.initial_lr_until_pct:g} %"
    if warmup := max(recipe.warmup_epochs, recipe.warmup_steps / epoch_steps):
        schedule += f", {warmup:.3g} epochs of warm-up"
    sides = [str(side) for _, side in recipe.train_sizes] or [str(preprocessing.image_size)]
    decayed = "" if recipe.decay_norms else ", none on BN and biases"
    augmentation = [
        {
            "pad": f"pad {recipe.crop_padding} and crop" if recipe.crop_padding else "",
            "scale": "scale and crop",
            "resized": "resized crop",
        }[recipe.crop],
        "flip" if recipe.flip else "",
        f"jitter {recipe.jitter:g}" if recipe.jitter else "",
        f"PCA lighting {recipe.lighting:g}" if recipe.lighting else "",
        f"labels smoothed by {recipe.label_smoothing:g}" if recipe.label_smoothing else "",
    ]
    return [
        f"network  {model.name}: {model.arm}, {model.depth} layers, shortcut {model.shortcut}",
        f"data     {dataset.name}: {sizes}",
        f"         {len(dataset.classes)} classes; {' then '.join(sides)} pixels; "
        f"mean per {'pixel' if preprocessing.pixel_mean else 'channel'}"
        f"{'' if config.weights is None else ', as the file has it'}",
        f"recipe   {recipe.name}: {total_steps:,} steps of {recipe.batch_size} images "
        f"({total_steps / epoch_steps:.4g} x {epoch_steps:,}); seed {config.seed}",
        f"         lr {recipe.lr:g}, {schedule}",
        f"         momentum {recipe.momentum:g}, weight decay {recipe.weight_decay:.3g}{decayed}",
        f"         {', '.join(filter(None, augmentation)) or 'no augmentation'}",
        *_held_back(recipe),
        f"computed {way}",
    ]


def _held_back(recipe: Recipe) -> list[str]:
    """Return a line on what does not learn as fast as the head, if anything does not."""
    words = [
        f"the head alone for {recipe.frozen_epochs} epoch{'s' * (recipe.frozen_epochs > 1)}"
        if recipe.frozen_epochs
        else "",
        f"lr x {recipe.layer_decay:g} each stage back" if recipe.layer_decay < 1 else "",
        "BN as it was" if recipe.freeze_bn else "",
    ]
    return [f"         {', '.join(filter(None, words))}"] if any(words) else []


def _short(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return the preprocessing with a digest in place of a mean image: nobody reads thousands of numbers."""
    values = to_json(preprocessing)
    mean = values.pop("pixel_mean")
    return {**values, "pixel_mean_sha256": hashlib.sha256(repr(mean).encode()).hexdigest()} if mean else values


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
