"""`resnetlab plan`: what a training will take, before it is begun."""

import json
import math
import shutil
import textwrap
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from resnetlab.config import ConfigError

if TYPE_CHECKING:
    from resnetlab.planning.plan import Hosts, Plan, Work

DECODE_MS = 1.7
"""Of one core for a photograph of ImageNet, cropped and resized to 224 pixels: docs/results/decode-speed.txt."""
PER_DEVICE = 256
"""Images of a device for recipes that are made for any number of them; NVIDIA's and ffcv's choice for ResNet-50."""
RESIDENT = 64
"""Side in pixels from which images are taken to be decoded again each time; smaller ones stay in memory."""


@dataclass(frozen=True)
class Options:
    """Predict time, memory, traffic, bottleneck and money of a training.

    Published speeds that its constants were set on it gives within 22 %, others of data-centre cards within 35 %:
    --published shows each, and docs/scaling.md explains it. Nothing is read or trained; --device here measures.
    """

    model: str = "resnet50"
    """A network by name."""
    data: str = "imagenet"
    """imagenet, cifar10, cifar100, mnist, fashion-mnist, digits, or what train takes: a folder of images or of parquet
    files, shards or their address, whose images are counted."""
    recipe: str = "imagenet-90"
    """A recipe by name."""
    device: str = "h100"
    """v100, a100-40gb, a100, h100, h200; or here: a core of this machine each, measured for some seconds."""
    devices: int = 8
    """How many, at least 1."""
    batch_size: int | None = None
    """Images of a step over all devices; 256 a device for the recipes whose learning rate goes with it, and else the
    recipe's."""
    epochs: int | None = None
    """In place of the recipe's."""
    image_size: int | None = None
    """Side in pixels, at least 8; 224 for ImageNet networks and 32 for CIFAR ones if not given."""
    precision: Literal["half", "single"] = "half"
    """16-bit activations and products, or 32."""
    price_per_hour: float | None = None
    """Of one device, in whatever money."""
    storage_mb_per_s: float | None = None
    """What storage gives over all, in 10^6 bytes a second; unlimited if not given."""
    cores: int | None = None
    """Processor cores of the host for each device; as the maker's machine has if not given."""
    decode_ms: float = DECODE_MS
    """Milliseconds of one core to decode, crop and resize an image; images below 64 pixels stay in memory decoded."""
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
    work, hosts = asked(options)
    from resnetlab.planning.plan import plan

    made = plan(work, hosts)
    if options.json:
        print(json.dumps({"model": options.model, "data": options.data, "recipe": options.recipe,
                          "device": hosts.device.name, "devices": hosts.devices, "batch_size": work.batch_size,
                          **asdict(made)}))  # fmt: skip
    else:
        print_plan(options, work, hosts, made)
    return 0


def asked(options: Options) -> "tuple[Work, Hosts]":
    """Return the work and the devices that the options describe."""
    check(options)
    from resnetlab.memory import keep_large_pages

    keep_large_pages()  # as train does, before PyTorch is loaded: a core of this machine is measured
    from resnetlab.models.zoo import model_config
    from resnetlab.planning.devices import HERE, device_named
    from resnetlab.planning.plan import Hosts
    from resnetlab.planning.work import measured_here, work_of
    from resnetlab.training.recipes import SCALED, recipe

    device, model = device_named(options.device), model_config(options.model)
    if device.name == HERE and options.devices > device.per_node:
        raise ConfigError(f"{options.devices} devices here, and this machine has {device.per_node} cores")
    if options.cores is not None:
        device = replace(device, cores=options.cores)
    size = options.image_size or (224 if model.stem == "imagenet" else 32)
    batch = options.batch_size or (PER_DEVICE * options.devices if options.recipe in SCALED else None)
    way = recipe(options.recipe, model, batch_size=batch, epochs=options.epochs)
    decode_s = options.decode_ms / 1000 if size >= RESIDENT else 0.0
    storage = None if options.storage_mb_per_s is None else options.storage_mb_per_s * 1e6
    work = work_of(model, options.data, way, size, half=options.precision == "half")
    if size < RESIDENT:
        work = replace(work, image_bytes=0.0)
    hosts = Hosts(options.devices, device, decode_s, storage, options.price_per_hour)
    if device.name != HERE:
        return work, hosts
    return work, replace(hosts, image_s=measured_here(model, work, options.devices) + decode_s, decode_s=0.0)


def check(options: Options) -> None:
    """Raise `ConfigError` for a number that cannot work."""
    least = {
        "devices": 1,
        "batch_size": 1,
        "epochs": 1,
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


def print_plan(options: Options, work: "Work", hosts: "Hosts", made: "Plan") -> None:
    """Print the plan for people."""
    device = hosts.device
    sizes = " then ".join(str(size) for _, size, _ in work.counted)
    epochs = f"{work.epochs:,.0f}" if work.epochs >= 100 else f"{work.epochs:.3g}"
    wanted = f"{traffic(made.storage_bytes_per_s)} wanted" if work.image_bytes else "none: images stay in memory"
    rows: dict[str, Any] = {
        "work": f"{options.model} on {options.data}, recipe {options.recipe}: {epochs} epochs of "
                f"{work.num_images:,} images, {sizes} pixels",
        "on": f"{hosts.devices:,} x {device.title}, {work.batch_size:,} images a step "
              f"(--batch-size {work.batch_size})",
        "": "",
        "time": f"{duration(3600 * made.hours)}: {made.images_per_s:,.0f} images/s, {made.steps:,} steps of "
                f"{duration(made.step_s)}; without validation",
        "bottleneck": f"{made.bottleneck} (images/s that each part allows: {limits(made)})",
        "memory": f"{made.memory_gib:.1f} of {device.memory_gib:.3g} GiB on each device",
        "storage": wanted + ("" if options.storage_mb_per_s is None else
                   f", {traffic(options.storage_mb_per_s * 1e6)} there"),
        "exchange": "none: there is one device" if hosts.devices == 1 else
                    f"{made.exchange_bytes / 1e6:,.1f} MB sent by each device a step, in {duration(made.exchange_s)}; "
                    + (f"{duration(made.exposed_s)} of it are waited for" if made.exposed_s else
                       "all of it during the backward pass"),
    }  # fmt: skip
    if made.money is not None:
        rows["money"] = f"{made.money:,.2f} at {hosts.price_per_hour:,.2f} an hour and device"
    show([*rows.items(), *(("note", note) for note in made.notes)])


def show(rows: list[tuple[str, str]]) -> None:
    """Print names and words in two columns."""
    width = min(80, shutil.get_terminal_size().columns)
    for name, words in rows:
        print(textwrap.fill(words, width, initial_indent=f"{name:<12}", subsequent_indent=" " * 12) or "")


def duration(seconds: float) -> str:
    """Return a time as people say it."""
    for unit, length, least in (("days", 86_400, 2), ("hours", 3600, 1), ("minutes", 60, 2), ("s", 1, 1)):
        if seconds >= least * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{1000 * seconds:.3g} ms"


def traffic(bytes_per_s: float) -> str:
    """Return bytes a second as people say them."""
    if bytes_per_s >= 1e10:
        return f"{bytes_per_s / 1e9:,.0f} GB/s"
    return f"{bytes_per_s / 1e6:,.0f} MB/s" if bytes_per_s >= 1e7 else f"{bytes_per_s / 1e6:.2g} MB/s"


def limits(made: "Plan") -> str:
    """Return what each part alone allows."""
    return ", ".join(f"{part} {speed:,.0f}" for part, speed in made.limits.items())


def print_published(as_json: bool) -> int:
    """Print published speeds beside what is predicted for them, those that constants were set on first."""
    from rich.console import Console

    from resnetlab.commands.tables import table
    from resnetlab.planning.published import COMPARED, FIGURES
    from resnetlab.planning.work import predicted

    found = [(figure, predicted(figure)) for figure in FIGURES]
    if as_json:
        print(json.dumps([{**asdict(figure), "predicted_images_per_s": speed} for figure, speed in found]))
        return 0
    console = Console(markup=False, highlight=False)
    for held_out, title in ((False, "constants were set on these"), (True, "held out")):
        listing = table(title, "published", "predicted", "error", left=1)
        for figure, speed in (pair for pair in found if pair[0].held_out == held_out):
            single = "TF32" if COMPARED[figure.device].tensor_single else "fp32"
            name = f"{figure.model}, {figure.devices} x {figure.device}, {'16 bits' if figure.half else single}"
            listing.add_row(name, f"{figure.images_per_s:,.0f}", f"{speed:,.0f}",
                            f"{100 * (speed / figure.images_per_s - 1):+.0f} %")  # fmt: skip
        console.print(listing, width=min(80, console.width))
        console.print()
    console.print("images/s; sources: docs/scaling.md, or --json", width=min(80, console.width))
    return 0
