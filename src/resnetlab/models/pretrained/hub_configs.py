"""Classes and preprocessing from the configuration files beside weights on the Hugging Face hub."""

from collections.abc import Mapping
from typing import Any

from resnetlab.config import ConfigError, Interpolation, Preprocessing
from resnetlab.literature.class_names import published_classes
from resnetlab.models.pretrained.catalogue import IMAGENET_MEAN, IMAGENET_STD, reference_fields
from resnetlab.models.pretrained.convert import Conversion

IMAGENET_OUTPUTS = 1000
"""Outputs of a network of ImageNet, whose class names a timm configuration leaves out."""
MAX_TEST_SIZE = 224
"""Largest size for testing that replaces the size of the training, in pixels."""
PILLOW_FILTERS: dict[int, Interpolation] = {2: "bilinear", 3: "bicubic"}
"""Numbers of Pillow's filters, as transformers stores them."""


def read_timm_config(config: Mapping[str, Any], name: str) -> Conversion:
    """Return classes and preprocessing from timm's config.json.

    Many configurations have a size for testing beside that of the training. It is taken up to 224 pixels, as for
    networks that were trained at 176; a larger one costs more time than its accuracy is worth as a default.

    Raises:
        ConfigError: if a value is missing or has another type.
    """
    values = {**config.get("pretrained_cfg", {})}
    try:
        size, crop_ratio = values["input_size"][1], values["crop_pct"]
        testing = values.get("test_input_size")
        if testing is not None and "test_crop_pct" in values and size < testing[1] <= MAX_TEST_SIZE:
            size, crop_ratio = testing[1], values["test_crop_pct"]
        preprocessing = Preprocessing(
            int(size),
            tuple(map(float, values["mean"])),
            tuple(map(float, values["std"])),
            crop_ratio=float(crop_ratio),
            **reference_fields(values["interpolation"], "timm"),
        )
        classes = _label_names(config, values, int(config.get("num_classes") or values["num_classes"]))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ConfigError(f"{name}: its config.json is not one of timm ({type(error).__name__}: {error})") from error
    return Conversion(name, None, classes, preprocessing, {"licence": values.get("license", "not stated")})


def _label_names(config: Mapping[str, Any], values: Mapping[str, Any], num_classes: int) -> tuple[str, ...] | None:
    names = config.get("label_names") or values.get("label_names")
    if names is not None:
        return tuple(map(str, names))
    return published_classes("imagenet") if num_classes == IMAGENET_OUTPUTS else None


def read_transformers_config(config: Mapping[str, Any], processor: Mapping[str, Any], name: str) -> Conversion:
    """Return classes and preprocessing from the config.json and preprocessor_config.json of transformers.

    Raises:
        ConfigError: if it is no ResNet, or a value has another type.
    """
    if config.get("model_type") != "resnet":
        raise ConfigError(f"{name}: a network of type {config.get('model_type')!r}; only resnet can be converted")
    try:
        labels = config.get("id2label")
        classes = None if labels is None else tuple(str(labels[str(index)]) for index in range(len(labels)))
        size = processor.get("size", 224)
        side = int(size.get("shortest_edge", size.get("height", 224)) if isinstance(size, Mapping) else size)
        preprocessing = Preprocessing(
            side,
            tuple(map(float, processor.get("image_mean", IMAGENET_MEAN))),
            tuple(map(float, processor.get("image_std", IMAGENET_STD))),
            crop_ratio=float(processor.get("crop_pct") or 0.875),
            **reference_fields(PILLOW_FILTERS[processor.get("resample", 2)], "torchvision"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{name}: its configuration cannot be read ({type(error).__name__}: {error})") from error
    return Conversion(name, None, _unique(classes), preprocessing)


def _unique(classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return class names that are unique: ImageNet's own where 1,000 names have repetitions, as in two cranes."""
    if classes is None or len(set(classes)) == len(classes):
        return classes
    if len(classes) == IMAGENET_OUTPUTS:
        return published_classes("imagenet")
    return tuple(f"{name} ({index})" if classes.count(name) > 1 else name for index, name in enumerate(classes))
