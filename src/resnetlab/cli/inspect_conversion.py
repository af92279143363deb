"""Build the model card of an imported network: classes, preprocessing and provenance, from the command's options."""

import difflib
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from resnetlab.cli.class_lists import read_class_list
from resnetlab.cli.inspect_options import CardOptions, check_image_size
from resnetlab.config import ConfigError, ModelConfig, Preprocessing
from resnetlab.data.registry import KNOWN_DATASETS
from resnetlab.models.importing.import_weights import ImportedModel
from resnetlab.models.importing.weight_checks import bn_variance_ratio
from resnetlab.models.importing.weights_parts import parts_digest
from resnetlab.models.model_file import ModelCard
from resnetlab.serialization import replace_non_finite

MAX_PIXEL = 255
"""Value of a pixel of full scale in an image file."""
CLEAR_RATIO = MAX_PIXEL
"""Least ratio of variances that indicates another pixel scale. Another scale gives 255 x 255, so this is half of it in
powers."""


def build_card(options: CardOptions, path: Path, imported: ImportedModel) -> tuple[ModelCard, list[str]]:
    """Build the model card; return it with notes on changes to the given numbers.

    Raises:
        ConfigError: if classes or preprocessing are missing or do not fit, or a weight is not finite.
    """
    config = imported.model.config
    if imported.num_non_finite:
        raise ConfigError(f"{path}: {imported.num_non_finite:,} numbers are not finite, so no model file is written")
    _check_complete(options, config)
    assert options.classes is not None
    classes = class_names(options.classes, config.num_classes)
    preprocessing, notes = _match_training_scale(imported, options, *make_preprocessing(options, config))
    preprocessing, assumed = _resize_like_source(imported, options, preprocessing)
    notes = [*notes, *assumed]
    return ModelCard(config, classes, preprocessing, provenance={"converted_from": _origin(path, imported)}), notes


def rename_classes(card: ModelCard, words: Sequence[str]) -> ModelCard:
    """Return the card with other class names in the same order; its provenance stores the previous names.

    Raises:
        ConfigError: as `class_names`.
    """
    before = {"classes_before": list(card.classes)}
    return replace(card, classes=class_names(words, card.model.num_classes), provenance=card.provenance | before)


def class_names(words: Sequence[str], num_classes: int) -> tuple[str, ...]:
    """Return class names: the words themselves, or those of the one data set or file that `words` names.

    Raises:
        ConfigError: for a file that cannot be read, a wrong number of names, and blank or repeated names.
    """
    names, source = tuple(words), "--classes"
    if len(words) == 1 and words[0] in KNOWN_DATASETS:
        names, source = KNOWN_DATASETS[words[0]].classes, f"--classes {words[0]}"
    elif len(words) == 1 and Path(words[0]).is_file():
        source = words[0]
        names = read_class_list(Path(source))
    elif len(words) == 1 and num_classes > 1:
        close = difflib.get_close_matches(words[0], list(KNOWN_DATASETS), n=1)
        hint = f"; did you mean {close[0]}?" if close else f"; known are {', '.join(KNOWN_DATASETS)}"
        raise ConfigError(f"--classes {words[0]!r} is neither a file nor a known data set{hint}")
    if len(names) != num_classes:
        raise ConfigError(f"{source} has {len(names)} names, and the network has {num_classes} classes")
    count = Counter(unicodedata.normalize("NFC", name) for name in names)
    invalid = [name for name in count if count[name] > 1 or not name.strip()]
    if invalid:
        raise ConfigError(
            f"{source} has {invalid[0]!r} for {count[invalid[0]]} of the classes; give each class its own name"
        )
    return names


def make_preprocessing(options: CardOptions, config: ModelConfig) -> tuple[Preprocessing, list[str]]:
    """Return the preprocessing from the user's values, and notes on changes to the given numbers.

    Raises:
        ConfigError: for values that do not fit the network or each other.
    """
    channels, imagenet = config.in_channels, config.stem != "cifar"
    size = check_image_size(((224 if imagenet else 32),) if options.image_size is None else options.image_size)
    pixel_mean: tuple[float, ...] = ()
    if options.pixel_mean is None:
        assert options.mean is not None
        assert options.std is not None
        mean, std = _check_values("--mean", options.mean, channels), _check_values("--std", options.std, channels)
        mean, std, notes = _to_full_scale(mean, std)
    else:
        image = read_pixel_mean(options.pixel_mean, channels)
        if options.image_size is not None and size != image.shape[1:]:
            given = " ".join(map(str, options.image_size))
            raise ConfigError(
                f"{options.pixel_mean} has {image.shape[1]} x {image.shape[2]} pixels, and --image-size is {given}"
            )
        std = None if options.std is None else _check_values("--std", options.std, channels)
        flat, std, notes = _to_full_scale(image.ravel(), std)
        pixel_mean, size = tuple(flat.tolist()), (image.shape[1], image.shape[2])
        mean = flat.reshape(channels, -1).mean(1)
    preprocessing = Preprocessing(
        image_size=size[0],
        image_width=None if size[0] == size[1] else size[1],
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()) if std is not None else (1.0,) * channels,
        pixel_mean=pixel_mean,
        crop_ratio=(0.875 if imagenet else 1.0) if options.crop_ratio is None else options.crop_ratio,
    )
    return preprocessing, notes


def read_pixel_mean(path: Path, channels: int) -> np.ndarray:
    """Read the mean of each pixel from an .npy file, channels first or last.

    Returns:
        float64 of shape (channels, height, width).

    Raises:
        ConfigError: if the file cannot be read, or has another shape or other values.
    """
    try:
        image = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"{path}: cannot be read as .npy ({error})") from error
    if not isinstance(image, np.ndarray) or image.dtype.kind not in "fiu":
        raise ConfigError(f"{path}: not an array of numbers; give a file of numpy.save")
    if image.ndim == 3 and image.shape[0] != channels and image.shape[2] == channels:
        image = image.transpose(2, 0, 1)
    if image.ndim != 3 or image.shape[0] != channels:
        raise ConfigError(
            f"{path}: has shape {image.shape}, and the network reads images of {channels} channels: "
            f"({channels}, height, width) or (height, width, {channels})"
        )
    if not np.isfinite(image).all() or image.min() < 0 or image.max() > MAX_PIXEL:
        raise ConfigError(f"{path}: its values must be from 0 to 1 each, or from 0 to {MAX_PIXEL}")
    return np.ascontiguousarray(image, np.float64)


def _check_values(name: str, given: Sequence[float], channels: int) -> np.ndarray:
    """Return one value for each channel as an array.

    Raises:
        ConfigError: for another number of values, and for values that no pixel scale allows.
    """
    values = np.array(given, np.float64)
    if len(values) != channels:
        raise ConfigError(f"{name} has {len(values)} values, and the network reads {channels} channels")
    if not np.isfinite(values).all() or (values < 0).any() or (values > MAX_PIXEL).any():
        raise ConfigError(f"{name} must be from 0 to 1 each, or from 0 to {MAX_PIXEL}, not {' '.join(map(str, given))}")
    return values


def _to_full_scale(mean: np.ndarray, std: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """Return mean and deviation in units of full scale, and notes on the conversion.

    Raises:
        ConfigError: if one is for pixels from 0 to 1 and the other for pixels from 0 to 255.
    """
    large_mean, large_std = bool((mean > 1).any()), std is not None and bool((std > 1).any())
    if not large_mean and not large_std:
        return mean, std, []
    if (large_mean and std is not None and (std < 1).any()) or (not large_mean and mean.any()):
        raise ConfigError(
            f"mean and std are on two scales: only one has values above 1, for pixels from 0 to {MAX_PIXEL}; give both "
            "for pixels from 0 to 1"
        )
    note = f"values above 1 are for pixels from 0 to {MAX_PIXEL}: "
    note += "mean divided by 255, deviation 1" if std is None else "mean and deviation divided by 255"
    return mean / MAX_PIXEL, None if std is None else std / MAX_PIXEL, [note]


def _resize_like_source(
    imported: ImportedModel, options: CardOptions, preprocessing: Preprocessing
) -> tuple[Preprocessing, list[str]]:
    """Set the resizing from the user's values, or as the repository does it whose keys the weights have.

    Keys of torchvision after a 7x7 stem stand for its first ImageNet weights (V1): bilinear, the shorter side to
    image_size / crop_ratio. timm has the same keys; a note says what is assumed. Networks after a 3x3 stem are for
    small images, which are rarely resized. The rules of other packages go with colour profiles that are ignored.
    """
    photographs = imported.model.config.stem != "cifar"
    source = imported.key_format.resize_rule if photographs else "resnetlab"
    rule = options.resize_rule or source
    preprocessing = replace(
        preprocessing,
        resize_rule=rule,
        interpolation=options.interpolation or "bilinear",
        fit=options.fit or "crop",
        color_profiles="apply" if rule == "resnetlab" else "ignore",
    )
    names = ("resize_rule", "interpolation", "fit")
    assumed = [
        f"--{name.replace('_', '-')} {getattr(preprocessing, name)}" for name in names if getattr(options, name) is None
    ]
    if not assumed or not photographs:
        return preprocessing, []
    why = "since the weights do not show it"
    if source == "torchvision":
        why = "as for torchvision's V1 weights (timm: --resize-rule timm --interpolation bicubic --crop-ratio 0.95)"
    return preprocessing, [f"resizing is assumed {why}: {' '.join(assumed)}"]


def _match_training_scale(
    imported: ImportedModel, options: CardOptions, preprocessing: Preprocessing, notes: list[str]
) -> tuple[Preprocessing, list[str]]:
    """Compare the pixel scale with that of the training, which the first BN shows.

    If the deviation was not given, use the scale of the training; otherwise add a note on a contradiction.
    """
    ratio = bn_variance_ratio(imported.model.state_dict(), preprocessing.std)
    if ratio is None or 1 / CLEAR_RATIO < ratio < CLEAR_RATIO:
        return preprocessing, notes
    if options.std is None and notes and ratio > CLEAR_RATIO:  # a mean of pixels from 0 to 255, without a deviation
        note = (
            f"values above 1 are for pixels from 0 to {MAX_PIXEL}, and the weights were trained on those minus the mean"
        )
        return replace(preprocessing, std=tuple(value / MAX_PIXEL for value in preprocessing.std)), [note]
    relation = "larger" if ratio > 1 else "smaller"
    times = max(ratio, 1 / ratio) ** 0.5
    note = (
        f"the weights were trained on numbers about {times:.0f} times {relation} than this mean and deviation give; "
        "check the scale of both"
    )
    return preprocessing, [*notes, note]


def _check_complete(options: CardOptions, config: ModelConfig) -> None:
    """Raise one error that names every missing option.

    Raises:
        ConfigError: if classes, mean or deviation are missing.
    """
    channels = config.in_channels
    missing = []
    if options.classes is None:
        missing.append(f"--classes ({config.num_classes} names, a file of them, or a data set such as cifar10)")
    if options.mean is None and options.pixel_mean is None:
        missing.append(f"--mean ({channels} values) or --pixel-mean FILE.npy")
    if options.std is None and options.pixel_mean is None:
        missing.append(f"--std ({channels} values)")
    if missing:
        raise ConfigError(f"a model file needs more than weights: add {'; '.join(missing)}")


def _origin(path: Path, imported: ImportedModel) -> dict[str, Any]:
    """Return the provenance of a conversion."""
    return {
        "file": path.name,
        "sha256": parts_digest(path),
        "key_format": imported.key_format.name,
        "metadata": replace_non_finite(dict(imported.weights.metadata)),
        "assumed": {item.subject: item.value for item in imported.assumptions},
        "warnings": list(imported.warnings),
    }
