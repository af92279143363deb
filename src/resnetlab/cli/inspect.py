"""`resnetlab inspect`: the network in a file of weights, and its conversion to a model file."""

from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnetlab.cli.data_options import READING_OPTIONS
from resnetlab.cli.inspect_options import Options, check_tried_values
from resnetlab.cli.output_paths import check_model_output
from resnetlab.cli.terminal import print_json
from resnetlab.cli.unused_options import given_options, refuse_unused
from resnetlab.config import ConfigError, ModelConfig, block_properties

if TYPE_CHECKING:
    from resnetlab.models.importing.import_weights import ImportedModel
    from resnetlab.models.model_card import ModelCard

CHECK_OPTIONS = ("mean", "std", "image_size")
"""The options of the card that --data takes too, without --save."""
BLOCK_BYTES = 64
"""Fewest bytes of a block in an exported file, so that a damaged card builds no network of millions of blocks."""


def run(options: Options) -> int:
    """Print which network a file holds; with `--save`, write a model file.

    Raises:
        ConfigError: for a wrong call, a file that cannot be read, or a network that cannot be imported.
    """
    _check_options(options)
    from resnetlab.cli.inspect_output import format_lines
    from resnetlab.inference.formats.exported_file import is_exported_file
    from resnetlab.models.model_card import find_model_file, has_card

    if is_exported_file(options.file):
        _refuse_options(options, "an export of resnetlab")
        result = inspect_exported_file(options.file)
    elif has_card(path := find_model_file(options.file)):
        _refuse_options(options, "a model file of resnetlab", allowed=("save", "classes", "data", *READING_OPTIONS))
        result = inspect_model_file(path, options)
    else:
        result = inspect_weights(path, options)
    if options.json:
        print_json(result)
    else:
        for line in format_lines(result):
            print(line)
    return 0


def inspect_model_file(path: Path, options: Options) -> dict[str, Any]:
    """Return the description of a model file; with `--save`, first write a copy with other class names.

    Raises:
        ConfigError: if `--save` is given without `--classes`, or the class names do not fit.
    """
    from resnetlab.cli.inspect_conversion import rename_classes
    from resnetlab.models.importing.weight_checks import value_warnings
    from resnetlab.models.model_card import file_has_checksums
    from resnetlab.models.model_file import load_model, save_model

    model, card = load_model(path)
    has_checksums, written = file_has_checksums(path), {}
    if options.data is not None:
        from resnetlab.cli.inspect_check import data_config, describe_check
        from resnetlab.evaluation.self_check.check_weights import check_weights

        written["check"] = describe_check(check_weights(path, data_config(options)))
    if options.save is not None:
        if options.card.classes is None:
            raise ConfigError(
                f"{path} is a model file of resnetlab already; leave --save out, or add --classes with "
                f"{len(card.classes)} other names"
            )
        card = rename_classes(card, options.card.classes)
        options.save.parent.mkdir(parents=True, exist_ok=True)
        save_model(options.save, model, card)
        written["out"] = str(options.save)
    return {
        "file": str(path),
        "kind": "a model file of resnetlab",
        "network": describe_architecture(card.model, sum(parameter.numel() for parameter in model.parameters())),
        "classes": list(card.classes),
        "preprocessing": _describe_preprocessing(card),
        "error": card.error,
        **_describe_fitted(card),
        "provenance": card.provenance,
        "has_checksums": has_checksums,
        "warnings": value_warnings(model.state_dict()),
    } | written


def inspect_exported_file(path: Path) -> dict[str, Any]:
    """Return the description of an exported file; the architecture is that before the export."""
    import torch

    from resnetlab.inference.formats.exported_file import ExportedFileError, read_exported_file
    from resnetlab.models.resnet import ResNet

    exported = read_exported_file(path)
    card, metadata = exported.card, exported.metadata
    num_blocks, num_bytes = sum(card.model.stage_blocks), path.stat().st_size
    if BLOCK_BYTES * num_blocks > num_bytes:  # before they are built
        raise ExportedFileError(f"{path}: has no weights for the {num_blocks:,} blocks that its card has")
    with torch.device("meta"):
        params = sum(parameter.numel() for parameter in ResNet(card.model).parameters())
    return {
        "file": str(path),
        "kind": f"an export of resnetlab: {metadata.format}, {metadata.precision}",
        "network": describe_architecture(card.model, params),
        "classes": list(card.classes),
        "preprocessing": _describe_preprocessing(card),
        "error": card.error,
        **_describe_fitted(card),
        "provenance": card.provenance,
        "export": asdict(metadata),
        "has_checksums": True,
        "warnings": [],
    }


def _describe_fitted(card: "ModelCard") -> dict[str, Any]:
    fitted = {"temperature_scaling": card.temperature_scaling, "multi_label": card.multi_label}
    return {name: asdict(value) for name, value in fitted.items() if value is not None}


def inspect_weights(path: Path, options: Options) -> dict[str, Any]:
    """Return the description of a file of published weights; with `--save`, also write the model file."""
    from resnetlab.models.importing.import_weights import import_weights

    overrides, checked = options.architecture.overrides(), {}
    if options.data is not None:
        from resnetlab.cli.inspect_check import apply_check

        options, overrides, checked = apply_check(path, options, overrides)
    imported = import_weights(path, overrides, tensors=options.tensors)
    weights, model = imported.weights, imported.model
    result: dict[str, Any] = {
        "file": str(path),
        "kind": weights.container,
        "num_tensors": len(weights.tensors),
        "state_dict_key": weights.wrapper,
        "other_state_dicts": list(weights.other_state_dicts),
        "metadata": dict(weights.metadata),
        "network": describe_architecture(model.config, sum(parameter.numel() for parameter in model.parameters())),
        "key_format": imported.key_format.name,
        "assumptions": [
            {"property": item.subject, "value": item.value, "reason": item.reason, "other_option": item.option}
            for item in imported.assumptions
        ],
        "warnings": list(imported.warnings),
    } | checked
    return result if options.save is None else result | _save_import(options.save, path, imported, options)


def _save_import(out: Path, path: Path, imported: "ImportedModel", options: Options) -> dict[str, Any]:
    """Write the model file of an imported network; return its description."""
    from resnetlab.cli.inspect_conversion import build_card
    from resnetlab.models.model_file import save_model

    card, notes = build_card(options.card, path, imported)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_model(out, imported.model, card)
    return {
        "out": str(out),
        "classes": list(card.classes),
        "notes": notes,
        "preprocessing": _describe_preprocessing(card),
    }


def describe_architecture(config: ModelConfig, params: int) -> dict[str, Any]:
    """Return the architecture as JSON values; `params` is the number of parameters."""
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
        "bottleneck_stride": config.bottleneck_stride if block_properties(config.block).num_convs == 3 else None,
        "norm": config.norm,
        "num_classes": config.num_classes,
        "in_channels": config.in_channels,
        "groups": config.groups,
        "width_per_group": config.width_per_group,
        "average_shortcut": config.average_shortcut,
    }


def _describe_preprocessing(card: "ModelCard") -> dict[str, Any]:
    """Return the preprocessing as JSON values; of a mean for each pixel, only whether there is one."""
    from resnetlab.serialization import to_json

    values = to_json(card.preprocessing)
    return {**values, "pixel_mean": bool(values["pixel_mean"])}


def _check_options(options: Options) -> None:
    """Raise for mistakes that can be found without reading the file.

    Raises:
        ConfigError: for options that contradict each other, and for an output file that exists or has a wrong suffix.
    """
    if options.data is None:
        refuse_unused(options, READING_OPTIONS, "--data")
    else:
        check_tried_values(options.card)
    given = [name for name in given_options(options.card) if options.data is None or name not in CHECK_OPTIONS]
    if options.save is None and given:
        raise ConfigError(f"--{given[0].replace('_', '-')} requires --save FILE, the model file to write")
    if options.save is not None:
        check_model_output("--save", options.save)
    if options.card.mean is not None and options.card.pixel_mean is not None:
        raise ConfigError("give --mean (a value for each channel) or --pixel-mean (one for each pixel), not both")


def _refuse_options(options: Options, kind: str, allowed: Collection[str] = ()) -> None:
    """Refuse the options that apply to published weights only, except those `allowed`.

    Raises:
        ConfigError: naming the first such option.
    """
    given = [name for name in given_options(options) if name not in ("file", "json", *allowed)]
    if given:
        raise ConfigError(
            f"{options.file} is {kind} already, and its metadata are complete; leave --{given[0].replace('_', '-')} out"
        )
