"""Classes and preprocessing from the configuration files beside weights on the Hugging Face hub."""

import re
from collections.abc import Mapping
from typing import Any

from resnetlab.config import ConfigError, Fit, Interpolation, Preprocessing
from resnetlab.literature.class_names import published_classes
from resnetlab.models.pretrained.catalogue import IMAGENET_MEAN, IMAGENET_STD, reference_fields
from resnetlab.models.pretrained.convert import Conversion

IMAGENET_OUTPUTS = 1000
"""Outputs of a network of ImageNet, whose class names a timm configuration leaves out."""
MAX_TEST_SIZE = 224
"""Largest size for testing that replaces the size of the training, in pixels."""
PILLOW_FILTERS: dict[int, Interpolation] = {2: "bilinear", 3: "bicubic"}
"""Numbers of Pillow's filters, as transformers stores them."""
TIMM_NETWORKS = re.compile(r"resnet\d+[cds]?|wide_resnet\d+_2|resnext\d+d?_\d+x\d+d")
"""Architectures of timm that the weights determine. Others have the same keys and compute something else: resnetblur50
and resnetaa50 filter before they subsample."""
TIMM_FREE_ARGUMENTS = frozenset(("num_classes", "in_chans", "drop_rate", "drop_path_rate", "drop_block_rate"))
"""Arguments of timm's networks that change nothing in evaluation, or that the weights determine."""
TIMM_FITS: Mapping[str, Fit] = {"center": "crop", "squash": "squash"}
"""Ways in which timm makes an image square, and ours."""
LARGE_CONVNEXT_SIZE, CONVNEXT_CROP_RATIO = 384, 224 / 256
"""Size from which the ConvNext processor of transformers, which its ResNets have, squashes images instead of cropping
them; and its crop below, if not given."""


class UnsupportedNetworkError(ConfigError):
    """A network, or a preprocessing, that cannot be converted exactly."""


def read_timm_config(config: Mapping[str, Any], name: str) -> Conversion:
    """Return classes and preprocessing from timm's config.json.

    Many configurations have a size for testing beside that of the training. It is taken up to 224 pixels, as for
    networks that were trained at 176; a larger one costs more time than its accuracy is worth as a default.

    Raises:
        UnsupportedNetworkError: if the network or its preprocessing is another than can be converted.
        ConfigError: if a value is missing or has another type.
    """
    values = {**config.get("pretrained_cfg", {})}
    _check_timm_network(config, values, name)
    try:
        fit = TIMM_FITS.get(values.get("crop_mode") or "center")
        _require(fit is not None, name, f"crop_mode {values.get('crop_mode')!r} of its images")
        _, height, width = values["input_size"]
        _require(height == width, name, f"a network of images of {height} x {width} pixels")
        size, crop_ratio = height, values["crop_pct"]
        testing = values.get("test_input_size")
        if testing is not None and "test_crop_pct" in values and size < testing[1] <= MAX_TEST_SIZE:
            size, crop_ratio = testing[1], values["test_crop_pct"]
        preprocessing = Preprocessing(
            int(size),
            tuple(map(float, values["mean"])),
            tuple(map(float, values["std"])),
            crop_ratio=float(crop_ratio),
            fit=fit or "crop",
            **reference_fields(values["interpolation"], "timm"),
        )
        classes = _label_names(config, values, int(config.get("num_classes") or values["num_classes"]))
    except UnsupportedNetworkError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ConfigError(f"{name}: its config.json is not one of timm ({type(error).__name__}: {error})") from error
    return Conversion(name, None, classes, preprocessing, {"licence": values.get("license", "not stated")})


def _check_timm_network(config: Mapping[str, Any], values: Mapping[str, Any], name: str) -> None:
    """Raise unless the weights determine what a network of timm computes."""
    architecture = config.get("architecture", values.get("architecture"))
    known = architecture is None or TIMM_NETWORKS.fullmatch(str(architecture)) is not None
    _require(known, name, f"architecture {architecture!r}, whose weights may have the keys of another")
    others = sorted({*(config.get("model_args") or {})} - TIMM_FREE_ARGUMENTS)
    _require(not others, name, f"a network with model_args {', '.join(map(str, others))}")
    pool = config.get("global_pool") or "avg"
    _require(pool in ("avg", "fast", "fastavg"), name, f"a network with global_pool {pool!r}")


def _require(holds: bool, name: str, problem: str) -> None:
    """Raise for a property that `hf://` does not convert."""
    if not holds:
        raise UnsupportedNetworkError(
            f"{name}: {problem} cannot be converted; only ResNets whose weights say what they compute are, such as "
            "resnet50, resnet50d, wide_resnet50_2 or resnext50_32x4d"
        )


def _label_names(config: Mapping[str, Any], values: Mapping[str, Any], num_classes: int) -> tuple[str, ...] | None:
    names = config.get("label_names") or values.get("label_names")
    if names is not None:
        return tuple(map(str, names))
    return published_classes("imagenet") if num_classes == IMAGENET_OUTPUTS else None


def read_transformers_config(config: Mapping[str, Any], processor: Mapping[str, Any], name: str) -> Conversion:
    """Return classes and preprocessing from the config.json and preprocessor_config.json of transformers.

    Raises:
        UnsupportedNetworkError: if the network or its preprocessing is another than can be converted.
        ConfigError: if it is no ResNet, or a value has another type.
    """
    if config.get("model_type") != "resnet":
        raise ConfigError(f"{name}: a network of type {config.get('model_type')!r}; only resnet can be converted")
    _require(
        config.get("hidden_act", "relu") == "relu", name, f"a network with hidden_act {config.get('hidden_act')!r}"
    )
    _require(not config.get("downsample_in_first_stage"), name, "a network with downsample_in_first_stage")
    in_first = config.get("downsample_in_bottleneck") and config.get("layer_type", "bottleneck") == "bottleneck"
    try:
        labels = config.get("id2label")
        classes = None if labels is None else tuple(str(labels[str(index)]) for index in range(len(labels)))
        size, crop_ratio, fit = _transformers_view(processor, name)
        normalises = processor.get("do_normalize", True)
        preprocessing = Preprocessing(
            size,
            tuple(map(float, processor.get("image_mean", IMAGENET_MEAN))) if normalises else (0.0,) * 3,
            tuple(map(float, processor.get("image_std", IMAGENET_STD))) if normalises else (1.0,) * 3,
            crop_ratio=crop_ratio,
            fit=fit,
            **reference_fields(PILLOW_FILTERS[processor.get("resample", 2)], "torchvision"),
        )
    except UnsupportedNetworkError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{name}: its configuration cannot be read ({type(error).__name__}: {error})") from error
    return Conversion(name, None, _unique(classes), preprocessing, bottleneck_stride="1x1" if in_first else None)


def _transformers_view(processor: Mapping[str, Any], name: str) -> tuple[int, float, Fit]:
    """Return the side of the input, the crop ratio and the fit of a processor of transformers.

    Raises:
        UnsupportedNetworkError: if it does not resize, or does not give all images one size.
    """
    _require(processor.get("do_resize", True), name, "a preprocessing without do_resize")
    _require(processor.get("do_rescale", True), name, "a preprocessing without do_rescale")
    size, crop = processor.get("size", 224), processor.get("crop_size")
    kind = str(processor.get("image_processor_type") or processor.get("feature_extractor_type") or "ConvNext")
    if not isinstance(size, Mapping):  # as in older files
        size = {"height": size, "width": size} if "ViT" in kind else {"shortest_edge": size}
    if "height" in size:
        _require(size["height"] == size["width"], name, f"a preprocessing to {size['height']} x {size['width']}")
    resized, fit = (int(size["height"]), "squash") if "height" in size else (int(size["shortest_edge"]), "crop")
    if processor.get("do_center_crop", crop is not None):
        crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop or {"height": 224, "width": 224}
        _require(crop["height"] == crop["width"] <= resized, name, f"a crop of {crop['height']} x {crop['width']}")
        return int(crop["height"]), crop["height"] / resized, fit
    if fit == "squash":
        return resized, 1.0, fit
    _require(
        "crop_pct" in processor or "ConvNext" in kind,
        name,
        "a preprocessing without a crop, in which images keep their shape,",
    )
    if resized >= LARGE_CONVNEXT_SIZE:
        return resized, 1.0, "squash"
    return resized, float(processor.get("crop_pct") or CONVNEXT_CROP_RATIO), "crop"


def _unique(classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return class names that are unique: ImageNet's own where 1,000 names have repetitions, as in two cranes."""
    if classes is None or len(set(classes)) == len(classes):
        return classes
    if len(classes) == IMAGENET_OUTPUTS:
        return published_classes("imagenet")
    return tuple(f"{name} ({index})" if classes.count(name) > 1 else name for index, name in enumerate(classes))
