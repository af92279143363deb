"""Convert a file of published weights to a model file in the cache, once."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock

from resnetlab.config import ConfigError, ModelConfig, Preprocessing
from resnetlab.models.importing.weights_parts import parts_digest
from resnetlab.models.model_card import ModelCard, ModelFileError, read_card
from resnetlab.serialization import differences, to_json
from resnetlab.system.cache_folder import cache_folder

if TYPE_CHECKING:
    from resnetlab.models.importing.import_weights import ImportedModel

CONVERSION = 1
"""Number of the conversion; a change of what it computes counts it up, so that older results are not used."""
FREE_FIELDS = ("name", "init_scale", "zero_init_residual")
"""Fields of `ModelConfig` that do not change what a trained network computes."""


@dataclass(frozen=True)
class Conversion:
    """Architecture, classes and preprocessing: all that a model file needs beyond the weights."""

    name: str
    """Name of the weights, for messages and the name of the model file."""
    model: ModelConfig | None
    """The architecture as published, which the file must have; `None` accepts any that can be imported."""
    classes: tuple[str, ...] | None
    """Class names in the order of the outputs; `None` numbers them."""
    preprocessing: Preprocessing
    origin: Mapping[str, Any] = field(default_factory=dict)
    """Address, licence and published accuracy, for the provenance."""
    bottleneck_stride: Literal["1x1", "3x3"] | None = None
    """As `ModelConfig.bottleneck_stride`, where it is published; by the convention of the file's keys if `None`."""


def weights_folder() -> Path:
    """Return the folder of downloaded weights and of the model files made from them."""
    return cache_folder() / "weights"


def converted_path(conversion: Conversion, sha256: str) -> Path:
    """Return the path of the model file for weights of this SHA-256; another conversion has another path."""
    parts = {
        "conversion": CONVERSION,
        "sha256": sha256,
        "model": None if conversion.model is None else to_json(conversion.model),
        "classes": conversion.classes,
        "preprocessing": to_json(conversion.preprocessing),
    }
    if conversion.bottleneck_stride is not None:
        parts["bottleneck_stride"] = conversion.bottleneck_stride
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    name = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in conversion.name)
    return weights_folder() / f"{name}-{digest[:8]}.safetensors"


def weights_title(weights: str) -> str:
    """Return initial weights as a user knows them: a conversion in the cache is named after what it was made from.

    That is the name of published weights, or the name of another file of weights. A name or path stays as it is.
    """
    path = Path(weights)
    if path.parent != weights_folder():
        return weights
    try:
        made_from = read_card(path).provenance["converted_from"]
    except (ModelFileError, KeyError):  # a resumed run does not need the file
        return path.stem.rpartition("-")[0] or path.stem
    return str(made_from.get("name") or made_from["file"])


def convert(source: Path, conversion: Conversion, sha256: str, *, imported: "ImportedModel | None" = None) -> Path:
    """Return the model file made from a file of weights; write it unless it exists.

    Args:
        source: The file of weights.
        conversion: Architecture, classes and preprocessing.
        sha256: SHA-256 of the file, or its published first digits.
        imported: The network of the file, if it was read before.

    Raises:
        ModelFileError: if the file cannot be read, or holds another network than published.
        ConfigError: if the cache cannot be written.
    """
    path = converted_path(conversion, sha256)
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock"), thread_local=False):
            if not path.exists():
                _write(source, path, conversion, imported=imported)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be written ({error.strerror or error}); name another folder with --cache-dir"
        ) from error
    return path


def _write(source: Path, path: Path, conversion: Conversion, *, imported: "ImportedModel | None") -> None:
    from resnetlab.models.importing.assumptions import AssumptionOverrides
    from resnetlab.models.importing.import_weights import import_weights
    from resnetlab.models.model_file import save_model

    imported = imported or import_weights(source, AssumptionOverrides(bottleneck_stride=conversion.bottleneck_stride))
    config = imported.model.config
    if imported.num_non_finite:
        raise ModelFileError(f"{source}: {imported.num_non_finite:,} numbers are not finite")
    if conversion.model is not None:
        other = [line for line in differences(config, conversion.model) if line.partition(":")[0] not in FREE_FIELDS]
        if other:
            raise ModelFileError(f"{source}: holds another network than {conversion.name} ({'; '.join(other)})")
    classes = conversion.classes or tuple(f"class {number}" for number in range(config.num_classes))
    if len(classes) != config.num_classes:
        raise ModelFileError(
            f"{source}: has {config.num_classes:,} outputs, and there are {len(classes):,} class names"
        )
    provenance = {
        "converted_from": {
            **conversion.origin,
            "file": source.name,
            "sha256": parts_digest(source),
            "key_format": imported.key_format.name,
            "assumed": {item.subject: item.value for item in imported.assumptions},
            "warnings": list(imported.warnings),
        }
    }
    save_model(path, imported.model, ModelCard(config, classes, conversion.preprocessing, provenance=provenance))
