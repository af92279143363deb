"""Text output of `resnetlab inspect`, in 80 columns."""

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from resnetlab.cli.inspect_check import check_lines
from resnetlab.system.count_text import count_text

WIDTH = 80
SHORTCUTS = {
    "none": "plain: no shortcuts",
    "pad": "residual, option A: identity and zero channels, no weights",
    "project": "residual, option B: projections where the shape changes",
    "project_all": "residual, option C: projections everywhere",
}

WITHOUT_CHECKSUMS = "none: written by an older version; changes would go unnoticed"


def format_lines(result: dict[str, Any]) -> Iterator[str]:
    """Yield the text output, in lines of at most 80 columns except for paths."""
    tensors = f", {result['num_tensors']:,} tensors" if "num_tensors" in result else ""
    wrapper = f" under {result['state_dict_key']}" if result.get("state_dict_key") else ""
    yield f"{result['file']}: {result['kind']}{tensors}{wrapper}"
    yield from _format_network(result["network"])
    yield from _format_import(result)
    if "check" in result:
        for index, line in enumerate(check_lines(result["check"])):
            yield from _entry("" if index else "checked", line)
    if "classes" in result:
        yield from _entry("classes", textwrap.shorten(", ".join(result["classes"]), 400, placeholder=" …"))
        yield from _entry("images", _format_preprocessing(result["preprocessing"]))
    for name, value in result.get("error", {}).items():
        if isinstance(value, int | float):
            yield from _entry("error", f"{name.removesuffix('_error_pct')} {value:.2f} %")
    if "temperature_scaling" in result:
        yield from _entry("softmax", _format_temperature(result["temperature_scaling"]))
    if "multi_label" in result:
        yield from _entry("labels", _format_thresholds(result["multi_label"]))
    if "provenance" in result:
        yield from _entry("from", _format_provenance(result["provenance"]))
    if not result.get("has_checksums", True):
        yield from _entry("SHA-256", WITHOUT_CHECKSUMS)
    if "export" in result:
        yield from _entry("input", f"{result['export']['input']}")
        yield from _entry("agrees", _format_agreement(result["export"]))
    for index, sentence in enumerate((*result["warnings"], *result.get("notes", ()))):
        yield from _entry("" if index else "note", sentence)
    if "out" in result:
        yield f"model file: {result['out']}"


def _format_network(network: dict[str, Any]) -> Iterator[str]:
    """Yield the lines on the architecture."""
    net = network
    yield from _entry("network", f"{net['name']}: {net['depth']} layers, {net['params']:,} parameters")
    yield from _entry("", SHORTCUTS[net["shortcut"]])
    stride = f", stride in the {net['bottleneck_stride']}" if net["bottleneck_stride"] else ""
    blocks, channels = _join(net["stage_blocks"]), _join(net["stage_channels"])
    yield from _entry("", f"{net['block']} blocks {blocks} of {channels} channels{stride}")
    if net["groups"] > 1 or net["width_per_group"] != 64:
        yield from _entry("", f"3x3 convolutions in {net['groups']} groups of width {net['width_per_group']}")
    if net["average_shortcut"]:
        yield from _entry("", "projections read averages of 2x2 positions")
    stem = {"imagenet": "7x7 stem", "cifar": "3x3 stem", "deep": "stem of three 3x3"}[net["stem"]]
    norm = "" if net["norm"] == "batch" else "; no batch normalisation"
    yield from _entry(
        "",
        f"{stem}; {count_text(net['in_channels'], 'channel')} in, {count_text(net['num_classes'], 'class')} out{norm}",
    )


def _format_import(result: dict[str, Any]) -> Iterator[str]:
    """Yield the lines on a file of published weights: key format, metadata, other state dicts, assumptions."""
    if "key_format" in result:
        yield from _entry("keys", result["key_format"])
    for key, value in result.get("metadata", {}).items():
        yield from _entry("metadata", f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}")
    for name in result.get("other_state_dicts", ()):
        yield from _entry("also", f"{name}: other tensors, not read; read them with --tensors {name}")
    for index, item in enumerate(result.get("assumptions", ())):
        otherwise = f". Otherwise: {item['other_option']}" if item["other_option"] else ""
        text = f"{item['property']}: {item['value']}, {item['reason']}{otherwise}"
        yield from _entry("" if index else "assumed", text)


def _entry(label: str, text: str) -> list[str]:
    """Return a labelled text, wrapped with a hanging indent."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=f"{label:<9}",
        subsequent_indent=" " * 11,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _format_preprocessing(values: dict[str, Any]) -> str:
    mean = "a mean for each pixel" if values["pixel_mean"] else f"mean {_join(values['mean'])}"
    size = f"{values['image_size']} x {values['image_width']}" if "image_width" in values else values["image_size"]
    cropped = "resized image" if "fit" in values else "shorter side"
    crop = "" if values["crop_ratio"] == 1 else f", the centre {values['crop_ratio']:g} of the {cropped}"
    parts = {"interpolation": "{}", "resize_rule": "rule of {}", "fit": "fit {}"}  # defaults are left out of the values
    resizing = "".join(f", {text.format(values[name])}" for name, text in parts.items() if name in values)
    return f"{size} pixels{crop}{resizing}; {mean}, deviation {_join(values['std'])}"


def _format_provenance(provenance: dict[str, Any]) -> str:
    """Return one line on the origin of a model."""
    if "converted_from" in provenance:
        origin = provenance["converted_from"]
        key_format = origin.get("key_format") or origin.get("layout")  # `layout` in files of older versions
        return f"converted from {origin['file']}{f' ({key_format})' if key_format else ''}"
    parts = []
    with suppress(KeyError, TypeError):  # other programs may write other values here
        config = provenance["config"]
        parts.append(f"trained on {config['data']['name']}, recipe {config['recipe']['name']}, seed {config['seed']}")
    with suppress(KeyError, TypeError):
        parts.append(f"deepened from {provenance['deepened_from']['file']}")
    if isinstance(versions := provenance.get("versions"), dict):
        parts.append(", ".join(f"{name} {version}" for name, version in versions.items()))
    return "; ".join(parts) or "unknown"


def _format_temperature(scaling: dict[str, Any]) -> str:
    """Return one line on the temperature of the softmax."""
    return (
        f"temperature {scaling['temperature']:.3f}, fitted on {scaling['num_images']:,} images of the "
        f"{scaling['split']} split"
    )


def _format_thresholds(multi_label: dict[str, Any]) -> str:
    """Return one line on the thresholds of a network for several labels an image."""
    thresholds = multi_label["thresholds"]
    return (
        f"several an image, at probabilities of {min(thresholds):.2f} to {max(thresholds):.2f}, fitted on "
        f"{multi_label['num_images']:,} images of the {multi_label['split']} split"
    )


def _format_agreement(export: dict[str, Any]) -> str:
    """Return one line on how closely an export agrees with its source network."""
    agreement, int8 = export["agreement"], export["int8"]
    if agreement["tolerance"] is not None:
        return (
            f"logits within {agreement['max_difference']:.1e} of the network's (tolerance {agreement['tolerance']:.1e})"
        )
    with suppress(KeyError, TypeError, ValueError):
        return f"error {int8['error_before_pct']:.2f} % before, {int8['error_after_pct']:.2f} % in int8"
    return f"the same class for {agreement['top1_agreement_pct']:.1f} % of {agreement['num_images']} images"


def _join(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)
