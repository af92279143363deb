"""`resnetlab models`: the catalogue, and the layers of one network."""

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from resnetlab.config import ConfigError

if TYPE_CHECKING:
    from resnetlab.models.cost import Cost


@dataclass(frozen=True)
class Options:
    """Print the networks with their parameters, MACs, the paper's figure beside ours, and activation memory.

    MACs are multiply-adds of convolutions and the head for one image; the paper calls them FLOPs.
    """

    name: Annotated[str | None, tyro.conf.Positional] = None
    """A network: print its layers instead of the catalogue."""
    batch_size: int = 128
    """Images in the training step whose activation memory is given."""
    pixels: int | None = None
    """Side of the images; 224 for ImageNet networks and 32 for CIFAR ones if not given."""
    json: bool = False
    """Print JSON instead of a table."""


def run(options: Options) -> int:
    """Print the catalogue, or the layers of one network."""
    if options.batch_size < 1:
        raise ConfigError(f"batch-size must be at least 1, not {options.batch_size}")
    if options.pixels is not None and options.pixels < 8:
        raise ConfigError(f"pixels must be at least 8, not {options.pixels}")
    if options.name is None:
        print_catalogue(options)
    else:
        print_layers(options.name, options)
    return 0


def count(name: str, options: Options) -> "tuple[int, Cost]":
    """Return a network's image size and its cost."""
    from resnetlab.models.cost import cost
    from resnetlab.models.zoo import build_model, model_config

    config = model_config(name)
    size = options.pixels or (224 if config.stem == "imagenet" else 32)
    return size, cost(build_model(config), size, options.batch_size)


def print_catalogue(options: Options) -> None:
    """Print every network of the paper, a line each."""
    from rich.console import Console
    from rich.progress import track

    from resnetlab.cli.tables import table
    from resnetlab.literature import paper
    from resnetlab.models.zoo import CATALOGUE, model_config

    rows = []
    for name in track(CATALOGUE, "counting", console=Console(stderr=True), transient=True):
        size, counted = count(name, options)
        cells = {quantity: paper.find_result(name, quantity) for quantity in ("params", "macs")}
        rows.append(
            {
                "name": name,
                "shortcut": model_config(name).shortcut,
                "image_size": size,
                "params": counted.params,
                "paper_params": cells["params"].value if cells["params"] else None,
                "macs": counted.macs,
                "paper_macs": cells["macs"].value if cells["macs"] else None,
                "activation_bytes": counted.activation_bytes,
                "batch_size": options.batch_size,
            }
        )
    if options.json:
        print(json.dumps({"models": rows}))
        return
    listing = table(
        "network", "shortcut", "pixels", "parameters", "paper", "MACs", "paper", f"GiB at {options.batch_size}", left=2
    )
    for row in rows:
        listing.add_row(
            row["name"],
            row["shortcut"],
            str(row["image_size"]),
            f"{row['params']:,}",
            _short(row["paper_params"]),
            _macs(row["macs"]),
            _short(row["paper_macs"]),
            f"{row['activation_bytes'] / 2**30:.2f}",
        )
    Console(markup=False).print(listing)
    print("\nMACs: multiply-adds of one image (the paper's FLOPs). paper: its Tables 1 and 6.")
    print("GiB: activations kept for the backward pass of a batch, fp32.")
    print("Any depth 6n+2 has a name as well: resnet8, plain164, resnet50-cifar.")


def print_layers(name: str, options: Options) -> None:
    """Print the layers of one network, and their sums."""
    from rich.console import Console

    from resnetlab.cli.tables import table

    size, counted = count(name, options)
    if options.json:
        sums = {"params": counted.params, "macs": counted.macs, "activation_bytes": counted.activation_bytes}
        print(json.dumps({"name": name, "image_size": size, **sums, "layers": [asdict(x) for x in counted.layers]}))
        return
    listing = table("layer", "kind", "output", "parameters", "MACs", f"MiB at {options.batch_size}", left=2)
    for layer in counted.layers:
        listing.add_row(
            layer.name,
            layer.kind,
            "x".join(map(str, layer.output_shape)),
            f"{layer.params:,}",
            _macs(layer.macs) if layer.macs else "",
            f"{layer.activation_bytes / 2**20:.1f}",
        )
    listing.add_section()
    total = f"{counted.activation_bytes / 2**20:.1f}"
    listing.add_row("total", "", f"from {size}x{size}", f"{counted.params:,}", _macs(counted.macs), total)
    Console(markup=False).print(listing)


def _macs(value: float) -> str:
    return f"{value / 1e9:.3f} G" if value >= 1e9 else f"{value / 1e6:.1f} M"


def _short(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value / 1e9:g} G" if value >= 1e9 else f"{value / 1e6:g} M"
