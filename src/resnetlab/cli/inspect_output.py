"""What a person reads of a file of weights, in 80 columns."""

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

WIDTH = 80
SHORTCUTS = {
    "none": "plain: no shortcuts",
    "pad": "residual, option A: identity and zero channels, no weights",
    "project": "residual, option B: projections where the shape changes",
    "project_all": "residual, option C: projections everywhere",
}


def format_lines(said: dict[str, Any]) -> Iterator[str]:
    """Yield what a person reads, in lines of at most 80 columns but for paths."""
    net = said["network"]
    tensors = f", {said['num_tensors']:,} tensors" if "num_tensors" in said else ""
    under = f" under {said['under']}" if said.get("under") else ""
    yield f"{said['file']}: {said['kind']}{tensors}{under}"
    yield from _entry("network", f"{net['name']}: {net['depth']} layers, {net['params']:,} parameters")
    yield from _entry("", SHORTCUTS[net["shortcut"]])
    stride = f", stride in the {net['bottleneck_stride']}" if net["bottleneck_stride"] else ""
    yield from _entry(
        "", f"{net['block']} blocks {_words(net['stage_blocks'])} of {_words(net['stage_channels'])} channels{stride}"
    )
    stem = "7x7 stem" if net["stem"] == "imagenet" else "3x3 stem"
    norm = "" if net["norm"] == "batch" else "; no batch normalisation"
    yield from _entry("", f"{stem}; {net['in_channels']} channels in, {net['num_classes']} classes out{norm}")
    if "layout" in said:
        yield from _entry("layout", said["layout"])
    for key, value in said.get("says", {}).items():
        yield from _entry("says", f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}")
    for name in said.get("others", ()):
        yield from _entry("also", f"{name}: other tensors, not looked at")
    label = "assumed"
    for one in said.get("unknown", ()):
        otherwise = f". Otherwise: {one['otherwise']}" if one["otherwise"] else ""
        yield from _entry(label, f"{one['what']}: {one['taken']}, {one['because']}{otherwise}")
        label = ""
    if "classes" in said:
        yield from _entry("classes", textwrap.shorten(", ".join(said["classes"]), 400, placeholder=" …"))
        yield from _entry("images", _images(said["preprocessing"]))
    for name, value in said.get("error", {}).items():
        if isinstance(value, int | float):
            yield from _entry("error", f"{name.removesuffix('_error_pct')} {value:.2f} %")
    if "provenance" in said:
        yield from _entry("from", _source(said["provenance"]))
    if "export" in said:
        yield from _entry("takes", f"{said['export']['input']}")
        yield from _entry("agrees", _agreement(said["export"]))
    for index, sentence in enumerate((*said["odd"], *said.get("notes", ()))):
        yield from _entry("" if index else "note", sentence)
    if "out" in said:
        yield f"model file: {said['out']}"


def _entry(label: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=f"{label:<9}",
        subsequent_indent=" " * 11,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _images(values: dict[str, Any]) -> str:
    mean = "a mean for each pixel" if values["pixel_mean"] else f"mean {_words(values['mean'])}"
    crop = "" if values["crop_ratio"] == 1 else f", the centre {values['crop_ratio']:g} of the shorter side"
    return f"{values['image_size']} pixels{crop}; {mean}, deviation {_words(values['std'])}"


def _source(provenance: dict[str, Any]) -> str:
    """Return in a line where a model comes from."""
    if "converted_from" in provenance:
        origin = provenance["converted_from"]
        return f"converted from {origin['file']} ({origin['layout']})"
    parts = []
    with suppress(KeyError, TypeError):  # others may write what they like there
        config = provenance["config"]
        parts.append(f"trained on {config['data']['name']}, recipe {config['recipe']['name']}, seed {config['seed']}")
    with suppress(KeyError, TypeError):
        parts.append(f"deepened from {provenance['deepened_from']['file']}")
    if isinstance(versions := provenance.get("versions"), dict):
        parts.append(", ".join(f"{name} {version}" for name, version in versions.items()))
    return "; ".join(parts) or "not said"


def _agreement(export: dict[str, Any]) -> str:
    """Return in a line how closely an export agrees with the network that it was made of."""
    agreement, int8 = export["agreement"], export["int8"]
    same = f"the same class for {agreement['top1_agreement_pct']:.1f} % of {agreement['num_images']} images"
    if agreement["tolerance"] is not None:
        return (
            f"logits within {agreement['max_difference']:.1e} of the network's (tolerance {agreement['tolerance']:.1e})"
        )
    with suppress(KeyError, TypeError, ValueError):
        same = f"error {int8['error_before_pct']:.2f} % before, {int8['error_after_pct']:.2f} % in int8"
    return same


def _words(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)
