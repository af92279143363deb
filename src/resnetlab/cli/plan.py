"""`resnetlab plan`: what a training will take, before it is begun."""

import json
import math
import shutil
import textwrap
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from resnetlab.config import ConfigError

if TYPE_CHECKING:
    from resnetlab.config import ModelConfig, Recipe
    from resnetlab.planning.devices import Device
    from resnetlab.planning.plan import Cluster, Plan, Workload

DECODE_MS = 1.7
"""Of one core for a photograph of ImageNet, cropped and resized to 224 pixels: docs/results/decode-speed.txt."""
LARGEST_SIDE = 2048
"""Pixels; the maps of a larger image are too many to be counted here."""


@dataclass(frozen=True)
class Options:
    """Predict time, memory, traffic, bottleneck and money of a training.

    It is the training that train begins with the same options: give it --batch-size and --precision as you will give
    them to train.

    Published speeds that its constants were set on it gives within 22 %, others of data-centre cards within 35 %:
    --published shows each, and docs/scaling.md explains it. Nothing is read or trained; --device here measures.
    """

    model: str | None = None
    """A network by name; resnet20 for the small named data sets and else resnet18 if not given, as in train."""
    data: str = "imagenet"
    """imagenet, cifar10, cifar100, mnist, fashion-mnist, digits, or what train takes: a folder of images or of parquet
    files, shards or their address, whose images are counted."""
    recipe: str | None = None
    """A recipe by name; the network's own if not given, as in train."""
    device: str = "h100"
    """v100, a100-40gb, a100, h100, h200; or here: a core of this machine each, measured for some seconds."""
    devices: int = 8
    """How many, at least 1."""
    batch_size: int | None = None
    """Images of a step over all devices, in place of the recipe's, as in train."""
    epochs: int | None = None
    """Passes over the training images, in place of the recipe's length."""
    steps: int | None = None
    """Length in steps, in place of the recipe's."""
    image_size: int | None = None
    """Side in pixels, 8 to 2048; that of the images if not given: 32 for CIFAR, 224 for ImageNet and for shards."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """As for train: auto takes the faster one for a long run and fp32 for a short one. In fp32 devices that have TF32
    use it for convolutions."""
    price_per_hour: float | None = None
    """Of one device, in whatever money."""
    storage_mb_per_s: float | None = None
    """What storage gives over all, in 10^6 bytes a second; unlimited if not given."""
    cores: int | None = None
    """Processor cores of the host for each device; as the maker's machine has if not given."""
    decode_ms: float = DECODE_MS
    """Milliseconds of one core to decode, crop and resize an image; none are spent on images that train keeps in memory
    decoded."""
    published: bool = False
    """Show published speeds beside what is predicted for them, and nothing else."""
    json: bool = False
    """Print one JSON object."""


def run(options: Options) -> int:
    """Predict and print.

    Raises:
        ConfigError: for a name that is not known, or values that cannot work.
    """
    if options.published:
        return print_published(options.json)
    options, work, hosts = resolve_plan(options)
    from resnetlab.planning.plan import plan

    made = plan(work, hosts)
    if options.json:
        print(
            json.dumps(
                {
                    "model": options.model,
                    "data": options.data,
                    "recipe": options.recipe,
                    "device": hosts.device.name,
                    "devices": hosts.devices,
                    "batch_size": work.batch_size,
                    "precision": "bf16" if work.half else "fp32",
                    **asdict(made),
                }
            )
        )
    else:
        print_plan(options, work, hosts, made)
    return 0


def resolve_plan(options: Options) -> "tuple[Options, Workload, Cluster]":
    """Return the options with model and recipe named, and the work and the devices that they describe."""
    check(options)
    from resnetlab.system.allocator import use_huge_pages

    use_huge_pages()  # as train does, before PyTorch is loaded: a core of this machine is measured
    from resnetlab.planning.devices import HERE, device_named
    from resnetlab.planning.plan import Cluster, image_s
    from resnetlab.planning.workload import measure_here, workload_of

    device, (model, way) = device_named(options.device), training(options)
    if device.name == HERE and options.devices > device.per_node:
        raise ConfigError(f"{options.devices} devices here, and this machine has {device.per_node} cores")
    if options.cores is not None:
        device = replace(device, cores=options.cores)
    work = workload_of(model, options.data, way, options.image_size, half=False)
    storage = None if options.storage_mb_per_s is None else options.storage_mb_per_s * 1e6
    decode_s = options.decode_ms / 1000 if work.image_bytes else 0.0
    hosts = Cluster(options.devices, device, decode_s, storage, options.price_per_hour)
    found: list[tuple[Workload, Cluster]] = []
    for half in precisions(options.precision, work, device):
        some, around = replace(work, half=half), hosts
        if device.name == HERE:
            measured_s = measure_here(model, some, options.devices)
            around = replace(hosts, image_s=measured_s + decode_s, decode_s=0.0)
        found.append((some, around))
    work, hosts = min(found, key=lambda pair: image_s(*pair))
    return replace(options, model=options.model or model.name, recipe=way.name), work, hosts


def training(options: Options) -> "tuple[ModelConfig, Recipe]":
    """Return network and recipe as `train` takes them with the same options, those that are not given included."""
    from resnetlab.models.zoo import model_config
    from resnetlab.planning.workload import SETS
    from resnetlab.training.recipes import default_recipe, recipe

    own = options.data == "imagenet" or options.data not in SETS
    model = model_config(options.model or ("resnet18" if own else "resnet20"))
    changes = {name: getattr(options, name) for name in ("batch_size", "epochs", "steps")}
    return model, recipe(options.recipe or default_recipe(options.data, model), model, **changes)


def precisions(asked: str, work: "Workload", device: "Device") -> tuple[bool, ...]:
    """Return whether 16 bits are used, as asked; for `auto` what `train` would take or, in a long run, choose from.

    Raises:
        ConfigError: for bf16 on a device that does not have it.
    """
    from resnetlab.training.execution import ASSUMED_MACS_PER_S, LONG_RUN_S

    if asked == "bf16" and not device.bf16:
        raise ConfigError(f"{device.name} does not compute in bf16; use --precision fp32 or another --device")
    if asked != "auto":
        return (asked == "bf16",)
    macs = max(cost.macs for cost, _, _ in work.counted)
    short = 3 * macs * work.batch_size * work.steps < ASSUMED_MACS_PER_S * LONG_RUN_S
    return (False,) if short or not device.bf16 else (False, True)


def check(options: Options) -> None:
    """Raise `ConfigError` for a number that cannot work."""
    least = {
        "devices": 1,
        "batch_size": 1,
        "epochs": 1,
        "steps": 1,
        "image_size": 8,
        "cores": 1,
        "price_per_hour": 0,
        "decode_ms": 0,
    }
    for name, value in ((name, getattr(options, name)) for name in (*least, "storage_mb_per_s")):
        word = name.replace("_", "-")
        if value is None:
            continue
        if not math.isfinite(value):
            raise ConfigError(f"{word} must be a number, not {value}")
        if value < least.get(name, 0):
            raise ConfigError(f"{word} must be at least {least[name]}, not {value:g}")
        if name not in least and value <= 0:
            raise ConfigError(f"{word} must be above 0, not {value:g}")
    if options.image_size is not None and options.image_size > LARGEST_SIDE:
        raise ConfigError(f"image-size must be at most {LARGEST_SIDE}, not {options.image_size}")


def print_plan(options: Options, work: "Workload", hosts: "Cluster", made: "Plan") -> None:
    """Print the plan for people."""
    device = hosts.device
    sizes = " then ".join(str(size) for _, size, _ in work.counted)
    epochs = f"{work.epochs:,.0f}" if work.epochs >= 100 else f"{work.epochs:.3g}"
    wanted = f"{format_rate(made.storage_bytes_per_s)} wanted" if work.image_bytes else "none: images stay in memory"
    computed = "bf16" if work.half else f"fp32{' (convolutions in TF32)' if device.tensor_single else ''}"
    chosen = f"--batch-size {work.batch_size}" if options.batch_size else "the recipe's (--batch-size for others)"
    rows: dict[str, Any] = {
        "work": f"{options.model} on {options.data}, recipe {options.recipe}: {epochs} epochs of "
        f"{work.num_images:,} images, {sizes} pixels",
        "on": f"{hosts.devices:,} x {device.title}, {computed}; {work.batch_size:,} images a step over all, {chosen}",
        "": "",
        "time": f"{format_duration(3600 * made.hours)}: {format_amount(made.images_per_s, 0)} images/s, {made.steps:,} steps of "
        f"{work.batch_size:,} images in {format_duration(made.step_s)} each; without validation",
        "bottleneck": f"{made.bottleneck} (images/s that each part allows: {describe_limits(made)})",
        "memory": f"{made.memory_gib:.1f} of {device.memory_gib:.3g} GiB on each device",
        "storage": wanted
        + ("" if options.storage_mb_per_s is None else f", {format_rate(options.storage_mb_per_s * 1e6)} there"),
        "exchange": "none: there is one device"
        if hosts.devices == 1
        else f"{made.exchange_bytes / 1e6:,.1f} MB sent by each device a step, in {format_duration(made.exchange_s)}; "
        + (
            f"{format_duration(made.exposed_s)} of it are waited for"
            if made.exposed_s
            else "all of it during the backward pass"
        ),
    }
    if made.money is not None:
        rows["money"] = (
            f"{format_amount(made.money, 2)} at {format_amount(hosts.price_per_hour or 0, 2)} an hour and device, "
            f"with {work.batch_size:,} images a step"
        )
    print_pairs([*rows.items(), *(("note", note) for note in made.notes)])


def print_pairs(rows: list[tuple[str, str]]) -> None:
    """Print names and words in two columns."""
    width = min(80, shutil.get_terminal_size().columns)
    for name, words in rows:
        print(textwrap.fill(words, width, initial_indent=f"{name:<12}", subsequent_indent=" " * 12) or "")


def format_duration(seconds: float) -> str:
    """Return a time as people say it."""
    for unit, length, least in (("days", 86_400, 2), ("hours", 3600, 1), ("minutes", 60, 2), ("s", 1, 1)):
        if seconds >= least * length:
            return f"{format_amount(seconds / length, 1)} {unit}"
    return f"{1000 * seconds:.3g} ms"


def format_amount(number: float, decimals: int) -> str:
    """Return a number with so many decimals; one that is too small or large for them by its first three digits."""
    if number and not 10.0**-decimals <= number < 1e12:
        return f"{number:.3g}"
    return f"{number:,.{decimals}f}"


def format_rate(bytes_per_s: float) -> str:
    """Return bytes a second as people say them."""
    if bytes_per_s >= 1e10:
        return f"{bytes_per_s / 1e9:,.0f} GB/s"
    return f"{bytes_per_s / 1e6:,.0f} MB/s" if bytes_per_s >= 1e7 else f"{bytes_per_s / 1e6:.2g} MB/s"


def describe_limits(made: "Plan") -> str:
    """Return what each part alone allows."""
    return ", ".join(f"{part} {format_amount(speed, 0)}" for part, speed in made.limits.items())


def print_published(as_json: bool) -> int:
    """Print published speeds beside what is predicted for them, those that constants were set on first."""
    from rich.console import Console

    from resnetlab.cli.tables import table
    from resnetlab.planning.published_speeds import COMPARED, FIGURES
    from resnetlab.planning.workload import predict_published

    found = [(figure, predict_published(figure)) for figure in FIGURES]
    if as_json:
        print(json.dumps([{**asdict(figure), "predicted_images_per_s": speed} for figure, speed in found]))
        return 0
    console = Console(markup=False, highlight=False)
    for held_out, title in ((False, "constants were set on these"), (True, "held out")):
        listing = table(title, "published", "predicted", "error", left=1)
        for figure, speed in (pair for pair in found if pair[0].held_out == held_out):
            single = "TF32" if COMPARED[figure.device].tensor_single else "fp32"
            name = f"{figure.model}, {figure.devices} x {figure.device}, {'16 bits' if figure.half else single}"
            listing.add_row(
                name,
                f"{figure.images_per_s:,.0f}",
                f"{speed:,.0f}",
                f"{100 * (speed / figure.images_per_s - 1):+.0f} %",
            )
        console.print(listing, width=min(80, console.width))
        console.print()
    console.print("images/s; sources: docs/scaling.md, or --json", width=min(80, console.width))
    return 0
