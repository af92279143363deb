"""What the user says of a foreign network → the card of its model file: classes, preprocessing, where it comes from."""

import difflib
import hashlib
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from resnetlab.config import ConfigError, ModelConfig, Preprocessing
from resnetlab.data.registry import KNOWN
from resnetlab.models.importing.import_weights import ImportedModel
from resnetlab.models.importing.weight_checks import bn_variance_ratio
from resnetlab.models.model_file import ModelCard
from resnetlab.training.record import replace_non_finite

FULL = 255
"""What a pixel of full scale is in a file."""
CLEAR = FULL
"""Times by which a variance must be off to speak of another scale, which makes 255 x 255: half of that, in powers."""


@dataclass(frozen=True)
class ConversionOptions:
    """What weights do not hold and a model file needs, as the user gave it; `None` where nothing was said."""

    classes: tuple[str, ...] | None
    """Names, or one word: a file of names, or a data set."""
    mean: tuple[float, ...] | None
    """Of each channel; pixels from 0 to 1, or from 0 to 255."""
    std: tuple[float, ...] | None
    pixel_mean: Path | None
    """An .npy file with a mean for each pixel."""
    image_size: int | None
    crop_ratio: float | None


def build_card(said: ConversionOptions, path: Path, found: ImportedModel) -> tuple[ModelCard, list[str]]:
    """Make the card; return what was done to the numbers given, in words, with it.

    Raises:
        ConfigError: where classes or preprocessing are missing or do not fit, or a weight is not finite.
    """
    config = found.model.config
    if found.not_finite:
        raise ConfigError(f"{path}: {found.not_finite:,} numbers are not finite, so no model file is made of it")
    _check_complete(said, config)
    assert said.classes is not None
    classes = class_names(said.classes, config.num_classes)
    prepared, notes = _on_the_scale_seen(found, said, *preprocessing(said, config))
    return ModelCard(config, classes, prepared, {"converted_from": _origin(path, found)}), notes


def rename_classes(card: ModelCard, words: Sequence[str]) -> ModelCard:
    """Return the card with other names of its classes, in their order; where it comes from keeps the old ones.

    Raises:
        ConfigError: as `class_names` does.
    """
    before = {"classes_before": list(card.classes)}
    return replace(card, classes=class_names(words, card.model.num_classes), provenance=card.provenance | before)


def class_names(words: Sequence[str], num_classes: int) -> tuple[str, ...]:
    """Return names of classes: the words, or what the only one of them means (a data set, or a file of lines).

    Raises:
        ConfigError: for a file that cannot be read, another number of names than there are classes, or one that is
            blank or there twice.
    """
    names, what = tuple(words), "--classes"
    if len(words) == 1 and words[0] in KNOWN:
        names, what = KNOWN[words[0]].classes, f"--classes {words[0]}"
    elif len(words) == 1 and Path(words[0]).is_file():
        what = words[0]
        try:
            lines = Path(what).read_text("utf-8-sig").splitlines()  # editors may put a mark in front
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{what}: class names cannot be read ({error})") from error
        names = tuple(line.strip() for line in lines if line.strip())
    elif len(words) == 1 and num_classes > 1:
        close = difflib.get_close_matches(words[0], list(KNOWN), n=1)
        hint = f"; did you mean {close[0]}?" if close else f"; known are {', '.join(KNOWN)}"
        raise ConfigError(f"--classes {words[0]!r} is neither a file here nor a data set that has a name{hint}")
    if len(names) != num_classes:
        raise ConfigError(f"{what} has {len(names)} names, and the network tells {num_classes} classes")
    count = Counter(unicodedata.normalize("NFC", name) for name in names)
    twice = [name for name in count if count[name] > 1 or not name.strip()]
    if twice:
        raise ConfigError(f"{what} has {twice[0]!r} for {count[twice[0]]} of the classes; give each a name of its own")
    return names


def preprocessing(said: ConversionOptions, config: ModelConfig) -> tuple[Preprocessing, list[str]]:
    """Return the preprocessing that was said, and what was done to their numbers.

    Raises:
        ConfigError: for values that do not fit the network, or each other.
    """
    channels, imagenet = config.in_channels, config.stem == "imagenet"
    size = (224 if imagenet else 32) if said.image_size is None else said.image_size
    pixels: tuple[float, ...] = ()
    if said.pixel_mean is None:
        assert said.mean is not None
        assert said.std is not None
        mean, std = _values("--mean", said.mean, channels), _values("--std", said.std, channels)
        mean, std, notes = _one_scale(mean, std)
    else:
        image = read_pixel_mean(said.pixel_mean, channels)
        if said.image_size not in (None, image.shape[1]):
            raise ConfigError(f"{said.pixel_mean} is {image.shape[1]} pixels wide, and --image-size {size}")
        std = None if said.std is None else _values("--std", said.std, channels)
        flat, std, notes = _one_scale(image.ravel(), std)
        pixels, size = tuple(flat.tolist()), image.shape[1]
        mean = flat.reshape(channels, -1).mean(1)
    ratio = (0.875 if imagenet else 1.0) if said.crop_ratio is None else said.crop_ratio
    return Preprocessing(
        size, tuple(mean.tolist()), tuple(std.tolist()) if std is not None else (1.0,) * channels, pixels, ratio
    ), notes


def read_pixel_mean(path: Path, channels: int) -> np.ndarray:
    """Read a mean for each pixel, float64 of shape (channels, size, size), from an .npy file of that or channels last.

    Raises:
        ConfigError: where the file cannot be read, or has another shape or other values.
    """
    try:
        image = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"{path}: cannot be read as .npy ({error})") from error
    if not isinstance(image, np.ndarray) or image.dtype.kind not in "fiu":
        raise ConfigError(f"{path}: not an array of numbers; give what numpy.save wrote")
    if image.ndim == 3 and image.shape[0] != channels and image.shape[2] == channels:
        image = image.transpose(2, 0, 1)
    if image.ndim != 3 or image.shape[0] != channels or image.shape[1] != image.shape[2]:
        raise ConfigError(
            f"{path}: has shape {image.shape}, and the network reads square images of {channels} channels: "
            f"({channels}, size, size) or (size, size, {channels})"
        )
    if not np.isfinite(image).all() or image.min() < 0 or image.max() > FULL:
        raise ConfigError(f"{path}: its values must be from 0 to 1 each, or from 0 to {FULL}")
    return np.ascontiguousarray(image, np.float64)


def _values(name: str, given: Sequence[float], channels: int) -> np.ndarray:
    values = np.array(given, np.float64)
    if len(values) != channels:
        raise ConfigError(f"{name} has {len(values)} values, and the network reads {channels} channels")
    if not np.isfinite(values).all() or (values < 0).any() or (values > FULL).any():
        raise ConfigError(f"{name} must be from 0 to 1 each, or from 0 to {FULL}, not {' '.join(map(str, given))}")
    return values


def _one_scale(mean: np.ndarray, std: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """Return mean and deviation in units of full scale, and what was done for it.

    Raises:
        ConfigError: where one is of pixels from 0 to 1, and the other of pixels from 0 to 255.
    """
    large_mean, large_std = bool((mean > 1).any()), std is not None and bool((std > 1).any())
    if not large_mean and not large_std:
        return mean, std, []
    if (large_mean and std is not None and (std < 1).any()) or (not large_mean and mean.any()):
        raise ConfigError(
            f"mean and std are on two scales: one has values above 1, as of pixels from 0 to {FULL}, and the other has "
            "not; give both for pixels from 0 to 1"
        )
    done = f"values above 1 are of pixels from 0 to {FULL}: "
    done += "mean divided by 255, deviation 1" if std is None else "mean and deviation divided by 255"
    return mean / FULL, None if std is None else std / FULL, [done]


def _on_the_scale_seen(
    found: ImportedModel, said: ConversionOptions, prepared: Preprocessing, notes: list[str]
) -> tuple[Preprocessing, list[str]]:
    """Compare with what the weights saw in training; settle what was not said, and note a contradiction."""
    times = bn_variance_ratio(found.model.state_dict(), prepared.std)
    if times is None or 1 / CLEAR < times < CLEAR:
        return prepared, notes
    if said.std is None and notes and times > CLEAR:  # a mean of pixels from 0 to 255, and no word of a division
        done = f"values above 1 are of pixels from 0 to {FULL}, and so are what the weights saw, less the mean"
        return replace(prepared, std=tuple(one / FULL for one in prepared.std)), [done]
    off = "larger" if times > 1 else "smaller"
    return prepared, [
        *notes,
        f"the weights saw numbers about {max(times, 1 / times) ** 0.5:.0f} times {off} in training than mean and "
        "deviation give here: were they of another scale?",
    ]


def _check_complete(said: ConversionOptions, config: ModelConfig) -> None:
    """Say at once everything that a model file needs and was not said."""
    channels = config.in_channels
    missing = []
    if said.classes is None:
        missing.append(f"--classes ({config.num_classes} names, a file of them, or a data set such as cifar10)")
    if said.mean is None and said.pixel_mean is None:
        missing.append(f"--mean ({channels} values) or --pixel-mean FILE.npy")
    if said.std is None and said.pixel_mean is None:
        missing.append(f"--std ({channels} values)")
    if missing:
        raise ConfigError(f"a model file needs what weights do not hold: add {'; '.join(missing)}")


def _origin(path: Path, found: "ImportedModel") -> dict[str, Any]:
    return {
        "file": path.name,
        "sha256": _digest(path),
        "layout": found.layout.name,
        "says": replace_non_finite(dict(found.weights.says)),
        "assumed": {one.what: one.taken for one in found.unknown},
        "odd": list(found.odd),
    }


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
