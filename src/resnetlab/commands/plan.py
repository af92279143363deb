"""`resnetlab plan`: what a training will take, before it is begun."""

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from resnetlab.config import ConfigError

if TYPE_CHECKING:
    from resnetlab.planning.plan import Hosts, Plan, Work

DECODE_MS = 1.7
"""Of one core for a photograph of ImageNet, cropped and resized to 224 pixels: docs/results/decode-speed.txt."""


@dataclass(frozen=True)
class Options:
    """Predict time, memory, traffic, bottleneck and money of a training, within 25 % for what was published.

    docs/scaling.md says from what, and how far it was checked.
    """

    model: str = "resnet50"
    """A network by name."""
    data: str = "imagenet"
    """imagenet, cifar10, cifar100, mnist, fashion-mnist, digits, or a folder of images, which are counted."""
    recipe: str = "imagenet-90"
    """A recipe by name."""
    device: str = "h100"
    """v100, a100-40gb, a100, h100 or h200."""
    devices: int = 8
    """How many, at least 1."""
    batch_size: int | None = None
    """Images of a step over all devices; 256 a device for the recipes whose learning rate goes with it, and else the
    recipe's."""
    epochs: int | None = None
    """In place of the recipe's."""
    image_size: int | None = None
    """Side in pixels; 224 for ImageNet networks and 32 for CIFAR ones if not given."""
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
    json: bool = False
    """Print one JSON object."""


def run(options: Options) -> int:
    """Predict and print.

    Raises:
        ConfigError: for a name that is not known, or values that cannot work.
    """
    work, hosts = asked(options)
    from resnetlab.planning.plan import plan

    made = plan(work, hosts)
    if options.json:
        print(json.dumps({"model": options.model, "data": options.data, "device": hosts.device.name, **asdict(made)}))
    else:
        print_plan(options, work, hosts, made)
    return 0


def asked(options: Options) -> "tuple[Work, Hosts]":
    """Return the work and the devices that the options describe."""
    for name in ("devices", "batch_size", "epochs", "image_size", "cores"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"{name.replace('_', '-')} must be at least 1, not {value}")
    for name in ("price_per_hour", "storage_mb_per_s", "decode_ms"):
        value = getattr(options, name)
        if value is not None and value < 0:
            raise ConfigError(f"{name.replace('_', '-')} must be at least 0, not {value:g}")
    from resnetlab.models.zoo import model_config
    from resnetlab.planning.devices import device_named
    from resnetlab.planning.plan import Hosts
    from resnetlab.planning.work import work_of
    from resnetlab.training.recipes import SCALED, recipe

    device, model = device_named(options.device), model_config(options.model)
    if options.cores is not None:
        device = replace(device, cores=options.cores)
    size = options.image_size or (224 if model.stem == "imagenet" else 32)
    batch = options.batch_size or (256 * options.devices if options.recipe in SCALED else None)
    way = recipe(options.recipe, model, batch_size=batch, epochs=options.epochs)
    decode_s = options.decode_ms / 1000 if size >= 64 else 0.0
    storage = None if options.storage_mb_per_s is None else options.storage_mb_per_s * 1e6
    work = work_of(model, options.data, way, size, half=options.precision == "half")
    return work, Hosts(options.devices, device, decode_s, storage, options.price_per_hour)


def print_plan(options: Options, work: "Work", hosts: "Hosts", made: "Plan") -> None:
    """Print the plan for people."""
    from rich.console import Console

    console = Console(markup=False, highlight=False)
    sizes = " then ".join(str(size) for _, size, _ in work.counted)
    rows: dict[str, Any] = {
        "work": f"{options.model} on {options.data}, {work.epochs:.3g} epochs of {work.num_images:,} images, "
        f"{sizes} pixels",
        "on": f"{hosts.devices} x {hosts.device.title}, {work.batch_size:,} images a step",
        "": "",
        "time": f"{hours(made.hours)}; {made.images_per_s:,.0f} images/s, {made.steps:,} steps of "
                f"{1000 * made.step_s:.3g} ms",
        "bottleneck": f"{made.bottleneck} ({limits(made)})",
        "memory": f"{made.memory_gib:.1f} of {hosts.device.memory_gib:g} GiB on each device",
        "storage": f"{made.storage_bytes_per_s / 1e6:,.0f} MB/s wanted",
        "exchange": f"{made.exchange_bytes / 1e6:,.0f} MB sent by each device a step, {1000 * made.exchange_s:.3g} ms, "
                    f"of which {1000 * made.exposed_s:.3g} are waited for",
    }  # fmt: skip
    if made.money is not None:
        rows["money"] = f"{made.money:,.2f} at {hosts.price_per_hour:g} an hour and device"
    for name, words in rows.items():
        console.print(f"{name:<11} {words}".rstrip(), width=min(80, console.width))
    for note in made.notes:
        console.print(f"note: {note}", width=min(80, console.width))


def hours(value: float) -> str:
    """Return a time as people say it."""
    if value >= 48:
        return f"{value / 24:.1f} days"
    return f"{value:.1f} hours" if value >= 1 else f"{60 * value:.1f} minutes"


def limits(made: "Plan") -> str:
    """Return what each part alone allows."""
    words = [f"{part} {speed:,.0f}" for part, speed in made.limits.items() if speed != float("inf")]
    return "images/s: " + ", ".join(words)
