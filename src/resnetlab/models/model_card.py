"""The model card: architecture, classes, preprocessing, provenance and errors, as stored in a model file."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from resnetlab.config import ConfigError, ModelConfig, Preprocessing
from resnetlab.models.model_checksums import CARD, PARTS, changed_parts, has_checksums
from resnetlab.serialization import OMIT_DEFAULT, check, check_type, from_json

FORMAT_VERSION = 1
MODEL_FILE = "model.safetensors"
"""Name of the model file in a run directory."""


class ModelFileError(ConfigError):
    """A file that is no resnetlab model file, or a damaged one; the message names the file and the reason."""


@dataclass(frozen=True, kw_only=True)
class TemperatureScaling:
    """The temperature that divides the logits before the softmax, and the images on which it was fitted.

    Paper: Guo et al., "On Calibration of Modern Neural Networks", 2017, section 4.2.
    """

    temperature: float
    """Above 0; above 1 it lowers the confidence."""
    split: str
    """Split of the images, such as `val`."""
    num_images: int
    """Images on which it was fitted."""
    loss_before: float
    """Mean cross entropy of these images without the temperature, in nats."""
    loss_after: float
    """The same with the temperature."""
    ece_before_pct: float
    """Expected calibration error of these images without the temperature, in %."""
    ece_after_pct: float
    """The same with the temperature."""

    def __post_init__(self) -> None:
        valid = math.isfinite(self.temperature) and self.temperature > 0
        check(valid, f"the temperature must be above 0, not {self.temperature:g}")


@dataclass(frozen=True, kw_only=True)
class MultiLabel:
    """The threshold of each label of a network whose images have several labels, and the images on which it was fitted.

    The probability of a label is the sigmoid of its logit; the labels are independent of each other.
    """

    thresholds: tuple[float, ...]
    """Probability from which an image gets each label, 0 to 1, in the order of the logits."""
    split: str
    """Split of the images, such as `val`."""
    num_images: int
    """Images on which the thresholds were fitted; 0 in a state that was kept during a run, whose thresholds are 0.5."""

    def __post_init__(self) -> None:
        valid = all(0 <= threshold <= 1 for threshold in self.thresholds)
        check(valid, "each threshold of a label must be from 0 to 1")


@dataclass(frozen=True)
class ModelCard:
    """The metadata of a model file: everything but the weights."""

    model: ModelConfig
    """The architecture."""
    classes: tuple[str, ...]
    """Class names in the order of the logits."""
    preprocessing: Preprocessing
    """Image size and normalisation of the network's input."""
    provenance: dict[str, Any] = field(default_factory=dict, kw_only=True)
    """Recipe, data fingerprint, split, seed, versions."""
    error: dict[str, Any] = field(default_factory=dict, kw_only=True)
    """Errors in %, measured at the end of training; the key names the split, as `test_error_pct`."""
    temperature_scaling: TemperatureScaling | None = field(default=None, kw_only=True, metadata=OMIT_DEFAULT)
    """The temperature of the softmax; `None` if none was fitted."""
    multi_label: MultiLabel | None = field(default=None, kw_only=True, metadata=OMIT_DEFAULT)
    """Thresholds of the labels; `None` if an image has one class."""

    @property
    def temperature(self) -> float:
        """The number that divides the logits before the softmax; 1 if none was fitted."""
        return 1.0 if self.temperature_scaling is None else self.temperature_scaling.temperature


OWN_WEIGHTS = "weights.safetensors"
"""File of a run directory with the weights of a module of the user's own, in place of the model file."""


def find_model_file(path: Path | str) -> Path:
    """Return the path of a model file: `path` itself, or the model file in the run directory `path`.

    The name of published weights, such as `resnet50.tv2_in1k`, or `hf://owner/name` stands for the model file in the
    cache; it is downloaded and converted unless that was done before. A file or folder of that name comes first.

    Raises:
        ModelFileError: if there is no such file.
        DownloadError: if published weights are not on this machine and cannot be downloaded.
    """
    check_type("path", path, str | Path, example="'runs/mine'")
    path = Path(path)
    if path.is_dir():
        if (path / OWN_WEIGHTS).exists():
            raise ModelFileError(
                f"{path}: the run of a network that is not of resnetlab; load {OWN_WEIGHTS} into its own class"
            )
        if not (path / MODEL_FILE).exists():
            raise ModelFileError(
                f"{path}: a folder without {MODEL_FILE}; give a model file or a finished run directory"
            )
        return path / MODEL_FILE
    if not path.exists():
        from resnetlab.models.pretrained.resolve import find_pretrained, suggest_weights
        from resnetlab.models.similar_paths import suggest_path

        pretrained = find_pretrained(str(path))
        if pretrained is None:
            hint = suggest_weights(str(path)) or suggest_path(path, MODEL_FILE)
            raise ModelFileError(f"{path}: no such model file{hint}")
        return pretrained
    return path


def read_card(path: Path | str) -> ModelCard:
    """Read the model card of a model file or run directory, without its weights.

    Raises:
        ModelFileError: for a file that is missing, damaged, or no resnetlab model file.
    """
    path = find_model_file(path)
    try:
        with safe_open(path, framework="np") as file:
            return parse_card(file.metadata() or {}, path)
    except (OSError, SafetensorError) as error:
        raise unreadable_file(path, error) from error


def has_card(path: Path) -> bool:
    """Return whether resnetlab wrote a file, intact or damaged."""
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            return CARD in metadata or has_checksums(metadata)
    except (OSError, SafetensorError):
        return False


def file_has_checksums(path: Path | str) -> bool:
    """Return whether a model file has checksums. Those of its weights are not checked.

    Raises:
        ModelFileError: for a file that is missing or damaged.
    """
    path = find_model_file(path)
    try:
        with safe_open(path, framework="np") as file:
            return check_checksums(path, file.metadata() or {}, weights=False)
    except (OSError, SafetensorError) as error:
        raise unreadable_file(path, error) from error


def parse_card(metadata: dict[str, str], path: Path) -> ModelCard:
    """Parse the metadata of a safetensors file into a model card; errors name `path`.

    Raises:
        ModelFileError: if the metadata are not resnetlab's, of another format version, or differ from their checksums.
    """
    check_checksums(path, metadata, weights=False)
    if CARD not in metadata:
        raise ModelFileError(
            f"{path}: a safetensors file without resnetlab's metadata; convert it: resnetlab inspect {path} --save FILE"
        )
    try:
        content = json.loads(metadata[CARD])
        if content.pop("format") != FORMAT_VERSION:
            raise ModelFileError(f"{path}: written by a newer resnetlab; this one reads format {FORMAT_VERSION}")
        return from_json(ModelCard, content)
    except ModelFileError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"{path}: its model card cannot be read ({error})") from error


def check_checksums(path: Path, metadata: dict[str, str], *, weights: bool = True) -> bool:
    """Check the checksums in a model file; return whether it has them. Files of older versions have none.

    Args:
        path: A valid safetensors file.
        metadata: Its metadata.
        weights: Whether to read and check the weights too, not only the card.

    Raises:
        ModelFileError: if a part was changed since the file was written; the message names the part.
    """
    try:
        changed = changed_parts(metadata, path if weights else None)
    except OSError as error:
        raise unreadable_file(path, error) from error
    if changed:
        parts = " and ".join(changed)
        rest = [part for part in PARTS if part not in changed] if weights and "checksums" not in changed else []
        intact = f" ({' and '.join(rest)} intact)" if rest else ""
        card = "; inspect --save with --classes changes class names" if changed == ("card",) else ""
        raise ModelFileError(
            f"{path}: its {parts} {'is' if changed == ('card',) else 'are'} not as written (SHA-256 "
            f"differs){intact}; copy the file again from its source, or make it again{card}"
        )
    return has_checksums(metadata)


def unreadable_file(path: Path, error: Exception) -> ModelFileError:
    """Return the error for a file that is not safetensors; for a PyTorch checkpoint, it names `resnetlab inspect`."""
    if path.suffix.lower() in (".pth", ".pt", ".th", ".tar", ".ckpt", ".bin"):
        return ModelFileError(f"{path}: not a safetensors file; convert it: resnetlab inspect {path} --save FILE")
    try:
        with path.open("rb") as file:
            file.read(256).decode("ascii")
    except (OSError, UnicodeDecodeError):
        return ModelFileError(f"{path}: cannot be read as safetensors ({error})")
    return ModelFileError(
        f"{path}: cannot be read as safetensors, since it is a text file; give a model file such as "
        "runs/NAME/model.safetensors, or a run directory"
    )
