"""`resnetlab weights`: published weights by name; their download ahead of use; the upload of one's own model."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from resnetlab.cli.terminal import print_json, print_lines
from resnetlab.config import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from resnetlab.models.pretrained.catalogue import PretrainedWeights


@dataclass(frozen=True)
class Options:
    """List published weights by name, or share a model of your own.

    Without words: a table of all published weights. With the name of one: all that is known about it. `fetch NAME`
    downloads and converts it, so that it can be used without network. `push MODEL hf://owner/name` uploads a model file
    with a generated page to the Hugging Face hub; log in before with: hf auth login.

    Every command that takes a model file takes such a name, or hf://owner/name, as well.
    """

    words: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """A name; or fetch NAME; or push MODEL hf://owner/name. The table of all if not given."""
    private: bool = False
    """push: a new repository is private."""
    licence: str | None = None
    """push: licence of the model for its page, such as apache-2.0 or cc-by-4.0; none is stated if not given."""
    json: bool = False
    """Print JSON."""


PUSH_OPTIONS = ("private", "licence")
"""Options that only push uses."""


def run(options: Options) -> int:
    """List weights, describe or fetch one, or upload a model.

    Raises:
        ConfigError: for an unknown name or a wrong call.
        DownloadError: if weights cannot be downloaded.
        UploadError: if the hub refuses the upload.
    """
    action, *rest = options.words or ("",)
    unused = [name for name in PUSH_OPTIONS if getattr(options, name) not in (None, False)]
    if unused and action != "push":
        raise ConfigError(f"--{unused[0]} requires push MODEL hf://owner/name; leave it out")
    if action == "push":
        return _push(rest, options)
    if action == "fetch":
        return _fetch(rest, options)
    if rest:
        raise ConfigError(
            f"weights takes one name, not {' '.join(options.words)!r}; or fetch NAME; or push MODEL TARGET"
        )
    if action:
        _print_details(_find_entry(action), options)
    else:
        _print_table(options)
    return 0


def _find_entry(name: str) -> "PretrainedWeights":
    """Return the entry of a name.

    Raises:
        ConfigError: if there is none; the message has similar names.
    """
    from resnetlab.models.pretrained.catalogue import CATALOGUE
    from resnetlab.models.pretrained.resolve import suggest_weights

    if name not in CATALOGUE:
        hint = suggest_weights(name).removeprefix(", and no published weights have this name")
        raise ConfigError(f"there are no published weights {name!r}{hint or '; resnetlab weights lists all'}")
    return CATALOGUE[name]


def _fetch(words: list[str], options: Options) -> int:
    """Download and convert weights by name, or from the hub; print the path of the model file."""
    from resnetlab.models.pretrained.resolve import find_pretrained

    if len(words) != 1:
        raise ConfigError("fetch takes one name: resnetlab weights fetch resnet50.tv2_in1k")
    path = find_pretrained(words[0])
    if path is None:
        _find_entry(words[0])  # raises
    if options.json:
        print_json({"name": words[0], "model_file": str(path)})
    else:
        print_lines(f"model file: {path}")
    return 0


def _push(words: list[str], options: Options) -> int:
    """Upload a model file; print the address of its page."""
    from resnetlab.models.pretrained.push import push_model

    if len(words) != 2:
        raise ConfigError("push takes a model file and an address: resnetlab weights push MODEL hf://owner/name")
    url = push_model(Path(words[0]), words[1], private=options.private, licence=options.licence)
    if options.json:
        print_json({"model": words[0], "url": url})
    else:
        print_lines(f"uploaded: {url}")
    return 0


def describe(entry: "PretrainedWeights") -> dict[str, Any]:
    """Return all that is known about published weights, as JSON values."""
    from resnetlab.models.pretrained.fetch import is_cached

    preprocessing = entry.preprocessing
    return {
        "name": entry.name,
        "source": entry.publisher.name,
        "page": entry.publisher.page,
        "licence": entry.publisher.licence,
        "url": entry.file.url,
        "sha256": entry.file.digest,
        "size_mib": entry.size_mib,
        "hub": entry.hub,
        "trained_on": entry.data,
        "num_classes": entry.model.num_classes,
        "params": entry.num_params,
        "top1_pct": entry.top1_pct,
        "top5_pct": entry.top5_pct,
        "image_size": entry.image_size,
        "resize_size": entry.resize_size,
        "crop_ratio": preprocessing.crop_ratio,
        "interpolation": preprocessing.interpolation if entry.resize_size else None,
        "resize_rule": preprocessing.resize_rule if entry.resize_size else None,
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "cached": is_cached(entry),
    }


def _print_table(options: Options) -> None:
    """Print one line for each entry, under a heading for each publisher."""
    from resnetlab.cli.console import open_console
    from resnetlab.models.pretrained.resolve import list_weights
    from resnetlab.system.cache_folder import cache_folder

    entries = list_weights()
    if options.json:
        print_json({"cache": str(cache_folder()), "weights": [describe(entry) for entry in entries]})
        return
    console = open_console(highlight=False)
    for publisher in dict.fromkeys((entry.publisher.name, entry.publisher.licence) for entry in entries):
        console.print(f"{publisher[0]}, licence {publisher[1]}", style="bold")
        console.print(_rows([entry for entry in entries if entry.publisher.name == publisher[0]]))
        console.print()
    print_lines(
        "Accuracies in %, as published for this preprocessing: the shorter side is",
        "resized to the first number of pixels, then the centre of the second is cropped.",
        f"Cache: {cache_folder()}",
    )


def _rows(entries: "list[PretrainedWeights]") -> "Table":
    from resnetlab.cli.tables import table

    rows = table("name", "parameters", "top-1", "top-5", "pixels", "resizing", "cached")
    for entry in entries:
        facts = describe(entry)
        resize, size = facts["resize_size"], facts["image_size"]
        rows.add_row(
            entry.name,
            f"{facts['params'] / 1e6:.2f} M",
            f"{entry.top1_pct:.2f}",
            "–" if entry.top5_pct is None else f"{entry.top5_pct:.2f}",
            f"{resize}, {size}" if resize else str(size),
            facts["interpolation"] or "–",
            "yes" if facts["cached"] else "no",
        )
    return rows


def _print_details(entry: "PretrainedWeights", options: Options) -> None:
    """Print all that is known about one entry."""
    from resnetlab.system.download_progress import size_text

    facts = describe(entry)
    if options.json:
        print_json(facts)
        return
    accuracy = f"top-1 {entry.top1_pct:.2f} %"
    accuracy += "" if entry.top5_pct is None else f", top-5 {entry.top5_pct:.2f} %"
    pixels = f"{entry.image_size} pixels"
    if entry.resize_size:
        pixels += f", the centre of a shorter side of {entry.resize_size} ({facts['interpolation']}, antialiased)"
    size = "" if entry.size_mib is None else f", {size_text(entry.size_mib * 2**20)}"
    values = {
        "name": entry.name,
        "network": f"{entry.model.name}, {facts['params']:,} parameters, {facts['num_classes']:,} classes",
        "trained on": {"imagenet": "ImageNet (ILSVRC-2012)", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}[
            entry.data
        ],
        "accuracy": f"{accuracy}, as published",
        "images": pixels,
        "rounding": f"that of {facts['resize_rule']}" if facts["resize_rule"] else "images have the network's size",
        "mean": " ".join(f"{value:g}" for value in facts["mean"]),
        "deviation": " ".join(f"{value:g}" for value in facts["std"]),
        "source": f"{entry.publisher.name}, {entry.publisher.page}",
        "licence": f"{entry.publisher.licence}, that of the repository",
        "file": f"{entry.file.url}{size}",
        "SHA-256": f"{entry.file.digest}{'…' if len(entry.file.digest) < 64 else ''}",
        **({"on the hub": f"hf://{entry.hub}"} if entry.hub else {}),
        "cached": "yes" if facts["cached"] else "no",
    }
    print_lines(*(f"{name:<11} {value}" for name, value in values.items()))
