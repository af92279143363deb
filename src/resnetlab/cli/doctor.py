"""`resnetlab doctor`: which stage of a training holds the rest back, and what to change."""

import json
import math
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from resnetlab.config import ConfigError, RunConfig

if TYPE_CHECKING:
    from resnetlab.training.profiler import StageSpeeds


@dataclass(frozen=True)
class Options:
    """Measure storage, decoding, augmentation, transfer and the training step, each alone, then all together.

    Each takes about --seconds, or one step where that is longer. Before storage is measured the kernel is asked to
    forget the images; what a disk or a file server keeps, it keeps. From an address shards are read anew, past the
    cache, which training reads in place of the address.
    """

    data: str | None = None
    """As for train: a name, a folder, or an address."""
    model: str | None = None
    """The network; as for train if not given."""
    data_root: Path | None = None
    """Folder of the archives of a named data set, or of the cache of an address."""
    recipe: str | None = None
    """A recipe by name; the network's own if not given."""
    batch_size: int | None = None
    """Images in a step, in place of the recipe's."""
    image_size: int | None = None
    """Side in pixels of what the network sees; chosen from the images if not given."""
    precision: Literal["auto", "fp32", "bf16"] | None = None
    """As for train; fp32 if not given."""
    device: Literal["auto", "cpu", "cuda"] | None = None
    """Where to compute; a GPU where there is one."""
    workers: int | None = None
    """Threads that decode; one a core if not given."""
    cache_gib: float = 10.0
    """Size of the cache for shards behind an address, in GiB."""
    on_bad_image: Literal["fail", "skip"] | None = None
    """Stop at images that cannot be read, or leave them out."""
    seconds: float = 1.0
    """How long each stage is measured, above 0."""
    json: bool = False
    """Print one JSON object."""


def run(options: Options) -> int:
    """Measure, and say what was found; return 0.

    Raises:
        ConfigError: as `train` does.
    """
    from resnetlab.cli import train
    from resnetlab.system.allocator import use_huge_pages
    from resnetlab.system.cores import usable_cores

    for name, value in (("seconds", options.seconds), ("cache-gib", options.cache_gib)):
        if not 0 < value < math.inf:
            raise ConfigError(f"{name} must be above 0, and a number, not {value:g}")
    if options.workers is not None and options.workers < 0:
        raise ConfigError(f"workers must be at least 0, not {options.workers}")
    same = ("data", "model", "data_root", "recipe", "batch_size", "image_size", "device", "on_bad_image")
    config: RunConfig = train.new_config(train.Options(**{name: getattr(options, name) for name in same}))
    config = replace(config, precision=options.precision or "fp32", layout="channels_last", compile="off")
    use_huge_pages()
    from resnetlab.training.profiler import measure_stages

    cores = usable_cores()
    workers = cores if options.workers is None else options.workers
    found = measure_stages(
        config, workers=workers, seconds=options.seconds, cache_gib=options.cache_gib, on_stage=print_stage
    )
    if options.json:
        said = {**asdict(found), "bottleneck": found.bottleneck, "advice": advice(found, cores)}
        print(json.dumps(said))
    else:
        print_report(config, found, cores)
    return 0


def print_stage(stage: str) -> None:
    """Tell a person who waits what is measured now."""
    if sys.stderr.isatty():
        print(f"measuring: {stage}", file=sys.stderr)


def print_report(config: RunConfig, found: "StageSpeeds", cores: int) -> None:
    """Print a table of the stages, which one holds the rest back, and what to change."""
    from rich.console import Console

    from resnetlab.cli.tables import table

    console = Console(markup=False, highlight=False)
    width = min(80, console.width)
    listing = table("stage", "images/s", "µs an image", left=1)
    for name, speed in found.speeds.items():
        shown = ("–", "–") if speed is None else (f"{speed:,.0f}", f"{1e6 / speed:,.0f}")
        listing.add_row(name, *shown)
    listing.add_section()
    listing.add_row("together", f"{found.all_stages:,.0f}", f"{1e6 / found.all_stages:,.0f}")
    console.print(
        f"{config.model.name} on {config.data.name}, recipe {config.recipe.name}: {found.batch_size:,} images a step "
        f"of {found.train_side} pixels; {found.device}, {found.execution}, {found.workers} workers",
        width=width,
    )
    console.print(listing)
    for line in notes(found):
        console.print(line, width=width)
    console.print(f"{found.bottleneck} holds the rest back: {advice(found, cores)}", width=width)


def notes(found: "StageSpeeds") -> list[str]:
    """Return what must be known to read the table."""
    said = []
    if found.measured_batch < found.batch_size:
        said.append(f"measured with {found.measured_batch} images a step: on a CPU the speed hardly depends on it.")
    if found.speeds["storage"] is None:
        said.append("images lie in memory, decoded: nothing is read or decoded while training.")
    else:
        where = "the kernel was asked to forget them first" if found.cold else "some may have come from memory"
        where = "past the cache" if found.is_remote else where
        rate = (found.bytes_per_s or 0) / 1e6
        said.append(f"storage gave {rate:,.0f} MB/s ({where}; what lies below may have kept them).")
        per_worker = (found.speeds["decoding"] or 0) / max(1, found.workers)
        said.append(f"decoding: {per_worker:,.0f} images/s a worker.")
        if found.device == "cpu":
            said.append("on the CPU decoding and the step share the cores: together they can be slower than either.")
    return said


def advice(found: "StageSpeeds", cores: int) -> str:
    """Return one sentence: what to change."""
    return {
        "storage": _storage,
        "decoding": _decoding,
        "augmentation": _augmentation,
        "transfer": _transfer,
        "step": _step,
    }[found.bottleneck](found, cores)


def _smaller(found: "StageSpeeds") -> int | None:
    """Return the shorter side that would do, where images are much larger than they are shown."""
    side = round(found.train_side * 8 / 7)
    return side if found.image_side > 1.3 * side else None


def _storage(found: "StageSpeeds", cores: int) -> str:
    side = _smaller(found)
    smaller = f" --max-side {side}, for fewer bytes" if side else ""
    if found.is_remote:
        packed = f", or pack smaller images (resnetlab data pack --max-side {side})" if side else ""
        return (
            "a cache that holds all shards (--cache-gib) leaves that to the first epoch; or copy them to a disk of "
            f"this machine{packed}."
        )
    return f"pack the images into shards (resnetlab data pack{smaller}), or put them on a faster disk of this machine."


def _decoding(found: "StageSpeeds", cores: int) -> str:
    if found.workers < cores:
        return f"use more workers: --workers {cores} on these cores."
    side = _smaller(found)
    if side:
        return f"pack smaller images (resnetlab data pack --max-side {side}); they have {found.image_side:,.0f} pixels now."
    return "the images are small already: take a machine with more cores, or a larger network."


def _augmentation(found: "StageSpeeds", cores: int) -> str:
    return "leave out jitter and lighting, or take a recipe without them, such as imagenet-90."


def _transfer(found: "StageSpeeds", cores: int) -> str:
    return "images cross as bytes already: see that the device has all its lanes, and use fewer devices a host."


def _step(found: "StageSpeeds", cores: int) -> str:
    if found.device == "cpu":
        return "the data keep up; bf16 (--precision auto measures it), a smaller image or network, or a GPU is faster."
    if "bf16" not in found.execution:
        return "the data keep up, as it should be; --precision bf16 is faster on most GPUs."
    return "the data keep up, as it should be; a larger batch or --compile on may be faster still."
