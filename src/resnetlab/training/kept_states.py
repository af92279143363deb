"""Weights of a run at several epochs, as model files: the path of the run, for `resnetlab landscape --states`."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnetlab.models.model_card import ModelCard, MultiLabel
from resnetlab.models.model_file import save_model
from resnetlab.training.callbacks import Callback
from resnetlab.training.run_files.provenance import provenance
from resnetlab.training.trainer_setup import TrainerComponents

STATES = "states"
"""Folder in a run directory."""


class KeepStates(Callback):
    """Writes the weights at the start of a run and after every few epochs to `epoch-0000.safetensors` and so on.

    They are the weights that are evaluated: the average of the weights if the recipe asks for one.

    A file that cannot be written is a warning, as a checkpoint is: the run goes on.
    """

    def __init__(self, folder: Path, every_epochs: int) -> None:
        """Write to `folder` every `every_epochs` epochs, at least 1."""
        self.folder = folder
        self.every_epochs = every_epochs

    def on_start(self, trainer: TrainerComponents) -> None:
        """Write the initial weights of a new run."""
        if not trainer.is_resumed:
            self._save(trainer, 0)

    def on_epoch(self, trainer: TrainerComponents, line: Mapping[str, Any]) -> None:
        """Write the weights after an epoch that is due."""
        if line["epoch"] % self.every_epochs == 0:
            self._save(trainer, line["epoch"])

    def _save(self, trainer: TrainerComponents, epoch: int) -> None:
        config, data = trainer.config, trainer.data
        origin = {**provenance(config, data.dataset, data.preprocessing), "epoch": epoch}
        multi_label = None
        if data.dataset.train.is_multi_label:  # thresholds are fitted at the end of a run alone
            half = (0.5,) * len(data.dataset.classes)
            multi_label = MultiLabel(thresholds=half, split="val", num_images=0)
        card = ModelCard(
            config.model, data.dataset.classes, data.preprocessing, provenance=origin, multi_label=multi_label
        )
        path = self.folder / f"epoch-{epoch:04d}.safetensors"
        try:
            self.folder.mkdir(exist_ok=True)
            save_model(path, trainer.eval_model, card)
        except OSError as error:
            trainer.warn(f"{path}: the state cannot be saved ({error.strerror or error}); training goes on")


def state_files(path: Path) -> list[Path]:
    """Return the kept states of a run directory or of a folder of states, in order; a file is itself."""
    folder = path / STATES if (path / STATES).is_dir() else path
    return sorted(folder.glob("epoch-*.safetensors"), key=_epoch) if folder.is_dir() else [path]


def _epoch(path: Path) -> tuple[float, str]:
    """Return the epoch of a kept state, by which states are in order; other files come last, by name."""
    digits = path.stem.removeprefix("epoch-")
    return int(digits) if digits.isdecimal() else math.inf, path.name
