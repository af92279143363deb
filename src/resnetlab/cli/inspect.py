"""`resnetlab inspect`: which network is in a file of weights; and a model file of it."""

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from resnetlab.config import ConfigError, ModelConfig

if TYPE_CHECKING:
    from resnetlab.models.model_card import ModelCard

FOR_SAVING = ("classes", "mean", "std", "pixel_mean", "image_size", "crop_ratio")
OTHERS = (".pth", ".pt", ".th", ".tar", ".ckpt", ".bin", ".onnx", ".xml", ".pt2")
"""Suffixes of other kinds of file; by some of them a file is opened."""


@dataclass(frozen=True)
class Options:
    """Say which network is in a file: a model file or an export of resnetlab, safetensors, or what torch.save wrote.

    Keys and shapes say it; what they do not say is listed with what is assumed. Nothing in the file is ever executed.
    With --save a foreign file becomes a model file that computes the same; for that its classes and its preprocessing
    must be said. A model file becomes one with other names of its classes.
    """

    file: Annotated[Path, tyro.conf.Positional]
    """A file of weights (.safetensors, .pth, .pt, .th, .tar), an export (.onnx, .xml, .pt2), or a run directory."""
    save: Path | None = None
    """The model file to make of it; one that is there already is refused."""
    classes: tuple[str, ...] | None = None
    """Names of the classes in order; or a file with one a line, or a data set that has a name, such as cifar10."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel that is subtracted: of pixels from 0 to 1, or from 0 to 255 where one is above 1."""
    std: tuple[float, ...] | None = None
    """Deviation of each channel, after that divided by; on the same scale. If not given with --pixel-mean: 1 for pixels
    from 0 to 1, or from 0 to 255 where the weights show that they saw such."""
    pixel_mean: Path | None = None
    """In place of --mean: an .npy file with a mean for each pixel, (channels, height, width) or channels last."""
    image_size: int | None = None
    """Side in pixels of what the network sees; 224 after a 7x7 stem and 32 after a 3x3 one if not given."""
    crop_ratio: float | None = None
    """Side of the centre that is cut out over the shorter side; 0.875 after a 7x7 stem, else 1, if not given."""
    shortcut: Literal["none", "pad"] | None = None
    """Where no shortcut has weights: there is none (a plain network), or option A."""
    zero_channels: Literal["append", "split"] | None = None
    """Where option A puts zero channels: behind the others, or half in front."""
    bottleneck_stride: Literal["1x1", "3x3"] | None = None
    """Which convolution of a bottleneck strides: the first 1x1 (v1), or the 3x3 (v1.5)."""
    json: bool = False
    """Print one JSON object."""


def run(options: Options) -> int:
    """Say which network is in a file, and with `--save` make a model file of it.

    Raises:
        ConfigError: for a mistake in the call, a file that cannot be read, or a network that is not one of ours.
    """
    _check(options)
    from resnetlab.cli.inspect_output import format_lines
    from resnetlab.inference.formats.exported_file import is_exported_file
    from resnetlab.models.model_card import find_model_file
    from resnetlab.training.record import replace_non_finite

    if is_exported_file(options.file):
        _refuse_choices(options, "an export of resnetlab")
        said = inspect_exported_file(options.file)
    elif _is_ours(path := find_model_file(options.file)):
        _refuse_choices(options, "a model file of resnetlab", allowed=("save", "classes"))
        said = inspect_model_file(path, options)
    else:
        said = inspect_weights(options, path)
    if options.json:
        print(json.dumps(replace_non_finite(said), ensure_ascii=False))
    else:
        for line in format_lines(said):
            print(line)
    return 0


def inspect_model_file(path: Path, options: Options) -> dict[str, Any]:
    """Return what is to be said of a model file of this project; with `--save`, after it was written with other names.

    Raises:
        ConfigError: where `--save` comes without `--classes`, or they do not fit.
    """
    from resnetlab.cli.inspect_conversion import rename_classes
    from resnetlab.models.importing.weight_checks import value_warnings
    from resnetlab.models.model_file import load_model, save_model

    model, card = load_model(path)
    written = {}
    if options.save is not None:
        if options.classes is None:
            raise ConfigError(
                f"{path} is a model file of resnetlab already; leave --save out, or add --classes with "
                f"{len(card.classes)} other names"
            )
        card = rename_classes(card, options.classes)
        options.save.parent.mkdir(parents=True, exist_ok=True)
        save_model(options.save, model, card)
        written = {"out": str(options.save)}
    return {
        "file": str(path),
        "kind": "a model file of resnetlab",
        "network": describe_architecture(card.model, sum(parameter.numel() for parameter in model.parameters())),
        "classes": list(card.classes),
        "preprocessing": _preprocessing(card),
        "error": card.error,
        "provenance": card.provenance,
        "odd": value_warnings(model.state_dict()),
    } | written


def inspect_exported_file(path: Path) -> dict[str, Any]:
    """Return what is to be said of an exported file; the network is described as it was before."""
    import torch

    from resnetlab.inference.formats.exported_file import read_exported_file
    from resnetlab.models.resnet import ResNet

    artefact = read_exported_file(path)
    card, passport = artefact.card, artefact.metadata
    with torch.device("meta"):
        params = sum(parameter.numel() for parameter in ResNet(card.model).parameters())
    return {
        "file": str(path),
        "kind": f"an export of resnetlab: {passport.format}, {passport.precision}",
        "network": describe_architecture(card.model, params),
        "classes": list(card.classes),
        "preprocessing": _preprocessing(card),
        "error": card.error,
        "provenance": card.provenance,
        "export": asdict(passport),
        "odd": [],
    }


def inspect_weights(options: Options, path: Path) -> dict[str, Any]:
    """Return what is to be said of anybody else's file; with `--save`, after the model file was written."""
    from resnetlab.cli.inspect_conversion import ConversionOptions, build_card
    from resnetlab.models.importing.assumptions import AssumptionOverrides
    from resnetlab.models.importing.import_weights import import_weights
    from resnetlab.models.model_file import save_model

    choices = AssumptionOverrides(options.shortcut, options.zero_channels, options.bottleneck_stride)
    found = import_weights(path, choices)
    weights, model = found.weights, found.model
    said: dict[str, Any] = {
        "file": str(path),
        "kind": weights.container,
        "num_tensors": len(weights.tensors),
        "under": weights.under,
        "others": list(weights.others),
        "says": dict(weights.says),
        "network": describe_architecture(model.config, sum(parameter.numel() for parameter in model.parameters())),
        "layout": found.layout.name,
        "unknown": [asdict(one) for one in found.unknown],
        "odd": list(found.odd),
    }
    if options.save is not None:
        card, notes = build_card(ConversionOptions(*(getattr(options, name) for name in FOR_SAVING)), path, found)
        options.save.parent.mkdir(parents=True, exist_ok=True)
        save_model(options.save, model, card)
        written = {"out": str(options.save), "classes": list(card.classes), "notes": notes}
        said |= written | {"preprocessing": _preprocessing(card)}
    return said


def describe_architecture(config: ModelConfig, params: int) -> dict[str, Any]:
    """Return the architecture as values for a person or a program."""
    return {
        "name": config.name,
        "family": config.arm,
        "depth": config.depth,
        "params": params,
        "block": config.block,
        "stage_blocks": list(config.stage_blocks),
        "stage_channels": list(config.stage_channels),
        "stem": config.stem,
        "shortcut": config.shortcut,
        "bottleneck_stride": config.bottleneck_stride if config.block == "bottleneck" else None,
        "norm": config.norm,
        "num_classes": config.num_classes,
        "in_channels": config.in_channels,
    }


def _preprocessing(card: "ModelCard") -> dict[str, Any]:
    """Return the preprocessing; of a mean image only that there is one, since nobody reads thousands of numbers."""
    from resnetlab.serialization import to_json

    values = to_json(card.preprocessing)
    return {**values, "pixel_mean": bool(values["pixel_mean"])}


def _is_ours(path: Path) -> bool:
    """Say whether this project wrote a file, whatever state it is in now."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return "resnetlab" in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def _check(options: Options) -> None:
    """Find what is wrong and needs no file to be found."""
    given = [name for name in FOR_SAVING if getattr(options, name) is not None]
    if options.save is None and given:
        raise ConfigError(f"--{given[0].replace('_', '-')} is for a model file that is made: add --save FILE")
    if options.save is not None and options.save.exists():
        raise ConfigError(f"{options.save} is there already; choose another --save, or delete it")
    if options.save is not None and options.save.suffix.lower() in OTHERS:
        raise ConfigError(
            f"{options.save}: a model file is safetensors, and {options.save.suffix} means something else; call it "
            f"{options.save.with_suffix('.safetensors')}"
        )
    if options.mean is not None and options.pixel_mean is not None:
        raise ConfigError("give --mean (a value for each channel) or --pixel-mean (one for each pixel), not both")


def _refuse_choices(options: Options, what: str, allowed: Collection[str] = ()) -> None:
    """Refuse what only a foreign file needs."""
    choices = ("shortcut", "zero_channels", "bottleneck_stride", *FOR_SAVING, "save")
    given = [name for name in choices if getattr(options, name) is not None and name not in allowed]
    if given:
        raise ConfigError(
            f"{options.file} is {what} already, and says what it is; leave --{given[0].replace('_', '-')} out"
        )
