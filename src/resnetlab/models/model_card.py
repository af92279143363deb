"""What a model file says of itself: architecture, classes, preprocessing, provenance, errors. No torch here."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from resnetlab.config import ConfigError, ModelConfig, Preprocessing
from resnetlab.serialization import from_json

FORMAT = 1
FILE = "model.safetensors"
"""The model file of a run directory."""


class ModelFileError(ConfigError):
    """A file that is not a model file of this project, or a damaged one; the message names it and says why."""


@dataclass(frozen=True)
class ModelCard:
    """Everything beside the weights: what the metadata of a model file holds."""

    model: ModelConfig
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    provenance: dict[str, Any] = field(default_factory=dict)
    """Recipe, data fingerprint, split, seed, versions."""
    error: dict[str, Any] = field(default_factory=dict)
    """Errors measured at the end of training, in %, each under the name of its split."""


def find_model_file(path: Path | str) -> Path:
    """Return the model file that a path means: itself, or of a run directory the one inside.

    Raises:
        ModelFileError: where there is none.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / FILE).exists():
            raise ModelFileError(f"{path}: a folder without {FILE}; name a model file or a finished run directory")
        return path / FILE
    if not path.exists():
        raise ModelFileError(f"{path}: no such model file")
    return path


def read_card(path: Path | str) -> ModelCard:
    """Read what a model file, or that of a run directory, says of itself; its weights are not looked at.

    Raises:
        ModelFileError: for a file that is missing, damaged, or not a model file of this project.
    """
    path = find_model_file(path)
    try:
        with safe_open(path, framework="np") as file:
            return parse_card(file.metadata() or {}, path)
    except (OSError, SafetensorError) as error:
        raise unreadable_file(path, error) from error


def parse_card(metadata: dict[str, str], path: Path) -> ModelCard:
    """Make a card of the metadata of a safetensors file; `path` is for the error.

    Raises:
        ModelFileError: where the metadata are not ours, or not of this format.
    """
    if "resnetlab" not in metadata:
        raise ModelFileError(
            f"{path}: a safetensors file, but not one that resnetlab wrote (no metadata of ours); "
            f"make one of it: resnetlab inspect {path} --save FILE"
        )
    try:
        content = json.loads(metadata["resnetlab"])
        if content.pop("format") != FORMAT:
            raise ModelFileError(f"{path}: written by a newer resnetlab; this one reads format {FORMAT}")
        return from_json(ModelCard, content)
    except ModelFileError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelFileError(f"{path}: what it says of its network cannot be read ({error})") from error


def unreadable_file(path: Path, error: Exception) -> ModelFileError:
    """Return the error for a file that is no safetensors file; it says what to do with a foreign checkpoint."""
    if path.suffix.lower() in (".pth", ".pt", ".th", ".tar", ".ckpt", ".bin"):
        return ModelFileError(f"{path}: not a safetensors file; make one of it: resnetlab inspect {path} --save FILE")
    return ModelFileError(f"{path}: cannot be read as safetensors ({error})")
