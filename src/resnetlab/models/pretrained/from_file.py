"""Convert a file of published weights in one step, with what its content and the conventions say about it."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from resnetlab.config import ModelConfig, Preprocessing
from resnetlab.literature.class_names import CIFAR10, CIFAR100, published_classes
from resnetlab.models.importing.weights_parts import parts_digest
from resnetlab.models.model_card import has_card
from resnetlab.models.pretrained.catalogue import (
    CATALOGUE,
    CIFAR10_MEAN,
    CIFAR10_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    reference_fields,
)
from resnetlab.models.pretrained.convert import Conversion, convert
from resnetlab.models.pretrained.resolve import FILE_SUFFIXES

if TYPE_CHECKING:
    from resnetlab.models.importing.import_weights import ImportedModel

WEIGHTS_SUFFIXES = FILE_SUFFIXES[:7]
"""Suffixes of files of weights; the others are exports."""
CIFAR_MEAN_KEY_FORMATS = ("kuangliu", "torchvision or timm")
"""Beginnings of the key formats whose CIFAR networks are normalised with CIFAR-10's own mean and deviation."""
CLEAR_RATIO = 255.0
"""Ratio of variances beyond which the pixels of the training had another scale."""

Log = Callable[[str], None]


def model_file_of(text: str, log: Log) -> str:
    """Return a name, a run directory or a model file as it is; for a file of weights, its conversion in the cache.

    A file of the catalogue is recognised by its SHA-256 and gets the published classes and preprocessing. For any other
    file, each assumption that the weights cannot confirm is logged.

    Raises:
        ModelFileError: if the file holds no network that can be imported.
    """
    path = Path(text)
    if not path.is_file() or path.suffix.lower() not in WEIGHTS_SUFFIXES or has_card(path):
        return text
    sha256 = parts_digest(path)
    entry = next((entry for entry in CATALOGUE.values() if sha256.startswith(entry.file.digest)), None)
    if entry is not None:
        from resnetlab.models.pretrained.fetch import conversion_of

        log(f"{path}: {entry.name}, by its SHA-256")
        return str(convert(path, conversion_of(entry), entry.file.digest))
    from resnetlab.models.importing.import_weights import import_weights

    imported = import_weights(path)
    conversion, lines = assumed_conversion(path, imported)
    for line in lines:
        log(f"{path}: {line}")
    return str(convert(path, conversion, sha256, imported=imported))


def assumed_conversion(path: Path, imported: "ImportedModel") -> tuple[Conversion, list[str]]:
    """Return classes and preprocessing by the conventions of the repository, and a line for each assumption."""
    from resnetlab.models.importing.weight_checks import bn_variance_ratio

    config = imported.model.config
    preprocessing, source = _assumed_preprocessing(config, imported.key_format.name)
    classes, names = _assumed_classes(config)
    numbers = (
        " ".join(f"{value:g}" for value in preprocessing.mean),
        " ".join(f"{value:g}" for value in preprocessing.std),
    )
    lines = [f"{config.name}, {config.num_classes:,} outputs, keys as in {imported.key_format.name}"]
    others = imported.weights.other_state_dicts
    if others:
        untaken = ", ".join(name[:40] for name in others[:3]) + (", …" if len(others) > 3 else "")
        lines.append(
            f"the weights under {imported.weights.wrapper or 'no key'} are taken, not {untaken}; resnetlab inspect "
            "FILE --tensors NAME --save NEW takes others"
        )
    lines += [f"assumed: {item.subject}: {item.value} ({item.reason})" for item in imported.assumptions if item.option]
    lines += [
        f"assumed: {preprocessing.image_size} pixels, mean {numbers[0]}, deviation {numbers[1]} ({source}), classes "
        f"{names}; resnetlab inspect FILE --save NEW takes other values"
    ]
    fixed = [f"{item.subject}: {item.value}" for item in imported.assumptions if not item.option]
    lines += [f"assumed, and no option changes it: {'; '.join(fixed)}"]
    lines += [f"unusual: {line}" for line in imported.warnings]
    ratio = bn_variance_ratio(imported.model.state_dict(), preprocessing.std)
    if ratio is not None and not 1 / CLEAR_RATIO < ratio < CLEAR_RATIO:
        lines.append(
            f"warning: the weights were trained on numbers about {max(ratio, 1 / ratio) ** 0.5:.0f} times "
            f"{'larger' if ratio > 1 else 'smaller'} than these mean and deviation give"
        )
    return Conversion(path.stem, None, classes, preprocessing), lines


def _assumed_preprocessing(config: ModelConfig, key_format: str) -> tuple[Preprocessing, str]:
    """Return the usual preprocessing of such a network, and why."""
    if config.in_channels != 3:
        half = (0.5,) * config.in_channels
        size = 32 if config.stem == "cifar" else 224
        return Preprocessing(size, half, half), "pixels from -1 to 1, since the network does not read colours"
    if config.stem != "cifar":
        fields = reference_fields("bilinear", "torchvision")
        return Preprocessing(224, IMAGENET_MEAN, IMAGENET_STD, crop_ratio=0.875, **fields), "as in torchvision"
    if key_format.startswith(CIFAR_MEAN_KEY_FORMATS):
        return Preprocessing(32, CIFAR10_MEAN, CIFAR10_STD), "as in kuangliu's and chenyaofo's repositories"
    return Preprocessing(32, IMAGENET_MEAN, IMAGENET_STD), "as in akamaster's repository"


def _assumed_classes(config: ModelConfig) -> tuple[tuple[str, ...] | None, str]:
    """Return the class names that a number of outputs and a stem suggest, and their description."""
    if config.stem != "cifar" and config.num_classes == 1000:
        return published_classes("imagenet"), "of ImageNet"
    if config.stem == "cifar" and config.num_classes in (len(CIFAR10), len(CIFAR100)):
        return published_classes(f"cifar{config.num_classes}"), f"of CIFAR-{config.num_classes}"
    return None, "by number"
