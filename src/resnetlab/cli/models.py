"""`resnetlab models`: the catalogue of networks with their cost, and the layers of one network."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from resnetlab.cli.plan import MAX_IMAGE_SIZE, MIN_IMAGE_SIZE
from resnetlab.cli.terminal import print_json
from resnetlab.cli.unused_options import refuse_without_effect
from resnetlab.config import ConfigError

if TYPE_CHECKING:
    from resnetlab.models.cost import Cost


@dataclass(frozen=True)
class Options:
    """Print the networks with parameters, MACs, published numbers beside ours, and activation memory.

    MACs are multiply-adds of convolutions and the head for one image; the paper calls them FLOPs.
    """

    name: Annotated[str | None, tyro.conf.Positional] = None
    """Name of a network whose layers are printed instead of the catalogue."""
    batch_size: int = 128
    """Images of a training step, for the activation memory."""
    pixels: int | None = None
    """Side of the images in pixels, 8 to 2048; default 224 for ImageNet networks and 32 for CIFAR networks."""
    paper: bool = False
    """Print the errors that the paper and its reproductions published, of one network or of all."""
    json: bool = False
    """Print JSON instead of a table."""


def run(options: Options) -> int:
    """Print the catalogue, the layers of one network, or published errors.

    Raises:
        ConfigError: for an unknown network, or a number out of range.
    """
    if options.batch_size < 1:
        raise ConfigError(f"batch-size must be at least 1, not {options.batch_size}")
    if options.pixels is not None and not MIN_IMAGE_SIZE <= options.pixels <= MAX_IMAGE_SIZE:
        bound = f"least {MIN_IMAGE_SIZE}" if options.pixels < MIN_IMAGE_SIZE else f"most {MAX_IMAGE_SIZE}"
        raise ConfigError(f"pixels must be at {bound}, not {options.pixels}")
    if options.paper:
        from resnetlab.cli.paper_output import print_paper

        refuse_without_effect(options, ("name", "paper", "json"), "--paper")
        print_paper(options.name, json=options.json)
    elif options.name is None:
        print_catalogue(options)
    else:
        print_layers(options.name, options)
    return 0


def measure_cost(name: str, options: Options) -> "tuple[int, Cost]":
    """Return a network's image size in pixels and its cost."""
    from resnetlab.models.cost import cost_of_config
    from resnetlab.models.zoo import model_config

    config = model_config(name)
    size = options.pixels or (32 if config.stem == "cifar" else 224)
    return size, cost_of_config(config, size, options.batch_size)


def print_catalogue(options: Options) -> None:
    """Print one line for each network of the paper, and for networks of later papers."""
    from resnetlab.models.zoo import CATALOGUE, LATER_NETWORKS, model_config

    rows = []
    for name in (*CATALOGUE, *LATER_NETWORKS):
        size, network_cost = measure_cost(name, options)
        params, macs = published_size(name)
        rows.append(
            {
                "name": name,
                "shortcut": model_config(name).shortcut,
                "image_size": size,
                "params": network_cost.params,
                "paper_params": params,
                "macs": network_cost.macs,
                "paper_macs": macs,
                "activation_bytes": network_cost.activation_bytes,
                "batch_size": options.batch_size,
            }
        )
    if options.json:
        print_json({"models": rows})
        return
    num_paper = len(CATALOGUE)
    print_sizes(rows[:num_paper], "paper", "shortcut", "memory")
    print()
    print_sizes(rows[num_paper:], "published")
    print("\nMACs: multiply-adds for one image (the paper's FLOPs); paper: Tables 1 and 6.")
    print("Published: by the sources in docs/variants.md. GiB: activations stored for the")
    print("backward pass of a batch, fp32.")
    print("Every depth 6n+2 has a name too: resnet8, plain164, resnet50-cifar. A block's")
    print("name at the end replaces the blocks: resnet56-preact, resnet18-no-last-relu.")


def print_sizes(rows: list[dict[str, Any]], source: str, *columns: str) -> None:
    """Print a table of networks; `source` is the heading of the published numbers, `columns` are those beside them."""
    from rich.console import Console

    from resnetlab.cli.tables import table

    more = {"shortcut": "shortcut", "memory": f"GiB at {rows[0]['batch_size']}"}
    first, last = [[more[column]] if column in columns else [] for column in more]
    listing = table("network", *first, "px", "parameters", source, "MACs", source, *last, left=1 + len(first))
    for row in rows:
        listing.add_row(
            row["name"],
            *([row["shortcut"]] if first else []),
            str(row["image_size"]),
            f"{row['params']:,}",
            _format_paper(row["paper_params"]),
            _format_macs(row["macs"]),
            _format_paper(row["paper_macs"]),
            *([f"{row['activation_bytes'] / 2**30:.2f}"] if last else []),
        )
    Console(markup=False).print(listing)


def published_size(name: str) -> tuple[float | None, float | None]:
    """Return the published parameters and MACs of a network; `None` for one that is not published."""
    from resnetlab.literature import paper
    from resnetlab.literature.later_networks import LATER_NETWORK_SIZES

    if name in LATER_NETWORK_SIZES:
        return LATER_NETWORK_SIZES[name].params, LATER_NETWORK_SIZES[name].macs
    params, macs = (paper.find_result(name, quantity) for quantity in ("params", "macs"))
    return params.value if params else None, macs.value if macs else None


def print_layers(name: str, options: Options) -> None:
    """Print the layers of one network and their sums."""
    from rich.console import Console

    from resnetlab.cli.tables import table

    size, network_cost = measure_cost(name, options)
    if options.json:
        sums = {
            "params": network_cost.params,
            "macs": network_cost.macs,
            "activation_bytes": network_cost.activation_bytes,
        }
        print_json({"name": name, "image_size": size, **sums, "layers": [asdict(x) for x in network_cost.layers]})
        return
    listing = table("layer", "kind", "output", "parameters", "MACs", f"MiB at {options.batch_size}", left=2)
    for layer in network_cost.layers:
        listing.add_row(
            layer.name,
            layer.kind,
            "x".join(map(str, layer.output_shape)),
            f"{layer.params:,}",
            _format_macs(layer.macs) if layer.macs else "",
            f"{layer.activation_bytes / 2**20:.1f}",
        )
    listing.add_section()
    total = f"{network_cost.activation_bytes / 2**20:.1f}"
    listing.add_row(
        "total", "", f"from {size}x{size}", f"{network_cost.params:,}", _format_macs(network_cost.macs), total
    )
    Console(markup=False).print(listing)


def _format_macs(value: float) -> str:
    return f"{value / 1e9:.3f} G" if value >= 1e9 else f"{value / 1e6:.1f} M"


def _format_paper(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value / 1e9:.3g} G" if value >= 1e9 else f"{value / 1e6:.3g} M"
