"""Train one network: `fit`, a loop that reads aloud.

Paper: section 3.4 (SGD with momentum and weight decay), section 4.2 (CIFAR).
"""

import copy
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from resnetlab.config import ConfigError, RunConfig, to_json
from resnetlab.data.loader import generator, steps_per_epoch, train_batches
from resnetlab.data.sources import open_data
from resnetlab.evaluation.protocols import single_view
from resnetlab.files import write_whole
from resnetlab.models.modelfile import ModelCard, save_model
from resnetlab.models.resnet import ResNet
from resnetlab.models.zoo import advice, build_model
from resnetlab.training.epoch import DivergedError, Progress, summary, train_epoch
from resnetlab.training.provenance import provenance, run_line
from resnetlab.training.record import Record


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What `fit` gives back."""

    model: ResNet
    """The kept network, on the CPU, in evaluation mode."""
    card: ModelCard
    result: dict[str, Any]
    """The record's last line: errors in %, times in seconds."""


def fit(
    config: RunConfig, out: Path | str | None = None, *, on_progress: Callable[[Progress], None] | None = None
) -> Fitted:
    """Train a network, judge it, and leave a run directory.

    Args:
        config: What to run. The network's channels and classes are taken from the data.
        out: The run directory: `config.json`, `record.jsonl`, `model.safetensors`. `None` writes nothing.
        on_progress: Called about `epoch.POINTS` times an epoch.

    Raises:
        ConfigError: for a configuration that the data or the machine does not allow.
        DivergedError: when the loss is not finite; the record says so too.
        FileExistsError: where `out` holds a run already.
    """
    out = None if out is None else Path(out)
    if out is not None:
        start_directory(out, config)
    start = time.perf_counter()
    with Record(None if out is None else out / "record.jsonl") as record:
        try:
            fitted = train(config, record, on_progress or (lambda progress: None))
            if out is not None:
                save_model(out / "model.safetensors", fitted.model, fitted.card)
        except Exception as error:
            status = "diverged" if isinstance(error, DivergedError) else "failed"
            reason = str(error) or type(error).__name__
            record.write("result", status=status, error=reason, time_s=time.perf_counter() - start)
            raise
        fitted.result["time_s"] = time.perf_counter() - start
        record.write("result", **fitted.result)
    return fitted


def train(config: RunConfig, record: Record, on_progress: Callable[[Progress], None]) -> Fitted:
    """Train and judge, writing the record; validation chooses, the test split speaks once, at the end."""
    device = pick_device(config.device)
    data = open_data(config.data)
    fitted_model = dataclasses.replace(config.model, in_channels=data.channels, num_classes=len(data.classes))
    config = dataclasses.replace(config, model=fitted_model)
    recipe, seed, preprocessing = config.recipe, config.seed, data.preprocessing
    splits = {name: split.to(device) for name, split in data.splits.items()}
    epoch_steps = steps_per_epoch(len(data.train), recipe.batch_size)
    total_steps = recipe.epochs * epoch_steps

    model = build_model(config.model, generator=generator(seed, "weights"))
    model.to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # a stub lacks it
    optimizer = torch.optim.SGD(
        model.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, fused=True
    )
    record.write("run", **run_line(config, data, model, device))
    if warning := advice(config.model, preprocessing.image_size):
        record.write("warning", message=warning)

    best = Best(with_weights=recipe.keep == "best")
    train_time_s = 0.0
    for epoch in range(recipe.epochs):
        start = time.perf_counter()
        points = []
        batches = train_batches(splits["train"], preprocessing, recipe, seed, epoch)
        steps = range(epoch * epoch_steps, (epoch + 1) * epoch_steps)
        for progress in train_epoch(model, optimizer, batches, recipe, steps, total_steps):
            points.append(progress)
            on_progress(progress)
        time_s = time.perf_counter() - start
        train_time_s += time_s

        val = single_view(model, splits["val"], preprocessing)
        best.see(epoch + 1, val.error_pct, model)
        speed = epoch_steps * recipe.batch_size / time_s
        means = summary(points)
        record.write("epoch", epoch=epoch + 1, **means, val_loss=val.loss, val_error_pct=val.error_pct,
                     time_s=time_s, images_per_s=speed)  # fmt: skip

    if recipe.keep == "best":
        model.load_state_dict(best.weights)
    errors = {f"{name}_error_pct": single_view(model, split, preprocessing).error_pct for name, split in splits.items()}
    result = {"status": "done", **errors, "steps": total_steps, "kept": recipe.keep, "best_epoch": best.epoch,
              "best_val_error_pct": best.error_pct,
              "images_per_s": total_steps * recipe.batch_size / train_time_s}  # fmt: skip
    card = ModelCard(config.model, data.classes, preprocessing, provenance(config, data), errors)
    return Fitted(model.cpu().eval(), card, result)


@dataclasses.dataclass
class Best:
    """The epoch with the lowest validation error so far, the first of equals, and its weights if they are wanted."""

    with_weights: bool
    epoch: int = 0
    error_pct: float = float("inf")
    weights: dict[str, Any] = dataclasses.field(default_factory=dict)

    def see(self, epoch: int, error_pct: float, model: ResNet) -> None:
        """Take in an epoch's validation error, in %."""
        if error_pct < self.error_pct:
            self.epoch, self.error_pct = epoch, error_pct
            self.weights = copy.deepcopy(model.state_dict()) if self.with_weights else {}


def start_directory(out: Path, config: RunConfig) -> None:
    """Make a run directory that holds its configuration and nothing else.

    Raises:
        FileExistsError: where it holds a run already.
    """
    if (out / "record.jsonl").exists():
        raise FileExistsError(f"{out}: holds a run already; choose another folder or delete it")
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "config.json", json.dumps(to_json(config), indent=2) + "\n")


def pick_device(device: str) -> torch.device:
    """Return the device that `auto`, `cpu` or `cuda` means here.

    Raises:
        ConfigError: for `cuda` where there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda: PyTorch finds none on this machine; use cpu or auto")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)
