"""`resnetlab doctor`: the speed of each stage of training, the bottleneck, and a remedy."""

import math
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from resnetlab.cli.data_options import Reading, ReadingOptions
from resnetlab.cli.terminal import print_json
from resnetlab.config import ConfigError, RunConfig
from resnetlab.system.cache_folder import CACHE_GIB

if TYPE_CHECKING:
    from resnetlab.training.profiler import StageSpeeds


@dataclass(frozen=True)
class Options:
    """Measure storage, decoding, augmentation, transfer and the training step, each alone, then all together.

    Each measurement takes about --seconds, or one step if that is longer. Storage is measured after the images are
    dropped from the page cache; caches of disks and file servers remain. Remote shards are read past the local cache,
    which training uses. Network, weights and image size that train selects by the speed of the machine are those
    without a measurement; published weights are used if they are on this machine.
    """

    data: str | None = None
    """A named data set, a folder or a URL, as for train."""
    reading: Reading = ReadingOptions()
    model: str | None = None
    """The network. If not given: resnet20 for named data sets and for your own images up to 64 pixels, and resnet18
    above."""
    recipe: str | None = None
    """A recipe by name; the default of train if not given."""
    batch_size: int | None = None
    """Images per step; the recipe's if not given."""
    image_size: int | None = None
    """Side of the network's input in pixels; derived from the images if not given."""
    precision: Literal["auto", "fp32", "tf32", "bf16"] | None = None
    """Precision of convolutions and matrix products; fp32 if not given."""
    device: Literal["auto", "cpu", "cuda"] | None = None
    """Device to measure; auto uses a GPU if one is available."""
    workers: int | None = None
    """Threads that decode images; one per core if not given."""
    cache_gib: float = CACHE_GIB
    """Size of the cache for remote shards in GiB."""
    seconds: float = 1.0
    """Seconds of each measurement, above 0."""
    json: bool = False
    """Print one JSON object."""


def run(options: Options) -> int:
    """Measure all stages and print a report; return 0.

    Raises:
        ConfigError: for an invalid option, as in `train`.
    """
    from resnetlab.cli import train_options
    from resnetlab.cli.train_config import unmeasured_config
    from resnetlab.system.allocator import use_huge_pages
    from resnetlab.system.cores import usable_cores
    from resnetlab.training.runtime_options import RuntimeOptions

    if not 0 < options.seconds < math.inf:
        raise ConfigError(f"seconds must be a finite number above 0, not {options.seconds:g}")
    cores = usable_cores()
    workers = cores if options.workers is None else options.workers
    runtime = RuntimeOptions(workers=workers, cache_gib=options.cache_gib)
    config = unmeasured_config(
        train_options.Options(
            data=options.data,
            reading=options.reading,
            model=options.model,
            image_size=options.image_size,
            recipe=train_options.RecipeOptions(options.recipe, batch_size=options.batch_size),
            execution=train_options.ExecutionOptions(device=options.device),
        )
    )
    config = replace(config, precision=options.precision or "fp32", layout="channels_last", compile="off")
    use_huge_pages()
    from resnetlab.training.profiler import measure_stages

    measured = measure_stages(
        config, workers=workers, time_s=options.seconds, cache_gib=runtime.cache_gib, on_stage=print_stage
    )
    if options.json:
        print_json(to_json(measured, cores))
    else:
        print_report(config, measured, cores)
    return 0


def to_json(measured: "StageSpeeds", cores: int) -> dict[str, Any]:
    """Return the object that `--json` prints."""
    return {
        "speeds": measured.speeds,
        "all_stages": measured.all_stages,
        "bytes_per_s": measured.bytes_per_s,
        "page_cache_dropped": measured.cold,
        "is_remote": measured.is_remote,
        "image_side": measured.image_side,
        "train_side": measured.train_side,
        "batch_size": measured.batch_size,
        "measured_batch": measured.measured_batch,
        "workers": measured.workers,
        "device": measured.device,
        "execution": measured.execution,
        "bottleneck": measured.bottleneck,
        "advice": advice(measured, cores),
    }


def print_stage(stage: str) -> None:
    """Print the stage that is being measured, if stderr is a terminal."""
    if sys.stderr.isatty():
        print(f"measuring: {stage}", file=sys.stderr)


def print_report(config: RunConfig, measured: "StageSpeeds", cores: int) -> None:
    """Print a table of the stages, the bottleneck and a remedy."""
    from resnetlab.cli.console import open_console
    from resnetlab.cli.tables import table

    console = open_console(highlight=False)
    width = min(80, console.width)
    rows = table("stage", "images/s", "µs per image", left=1)
    for name, speed in measured.speeds.items():
        cells = ("–", "–") if speed is None else (f"{speed:,.0f}", f"{1e6 / speed:,.0f}")
        rows.add_row(name, *cells)
    rows.add_section()
    rows.add_row("together", f"{measured.all_stages:,.0f}", f"{1e6 / measured.all_stages:,.0f}")
    console.print(
        f"{config.model.name} on {config.data.name}, recipe {config.recipe.name}: {measured.batch_size:,} images per "
        f"step of {measured.train_side} pixels; {measured.device}, {measured.execution}, {measured.workers} workers",
        width=width,
    )
    console.print(rows)
    for line in notes(measured):
        console.print(line, width=width)
    console.print(f"bottleneck: {measured.bottleneck}. Remedy: {advice(measured, cores)}", width=width)


def notes(measured: "StageSpeeds") -> list[str]:
    """Return the conditions of the measurement, one sentence each."""
    lines = []
    if measured.measured_batch < measured.batch_size:
        lines.append(
            f"measured with {measured.measured_batch} images per step: on a CPU the speed hardly depends on it."
        )
    if measured.speeds["storage"] is None:
        lines.append("decoded images fit in memory: training neither reads nor decodes.")
    else:
        if measured.is_remote:
            condition = "local cache bypassed"
        else:
            condition = "page cache dropped" if measured.cold else "page cache not dropped, may include cached reads"
        mb_per_s = (measured.bytes_per_s or 0) / 1e6
        lines.append(f"storage: {mb_per_s:,.0f} MB/s ({condition}; caches of disks and servers may remain).")
        per_worker = (measured.speeds["decoding"] or 0) / max(1, measured.workers)
        lines.append(f"decoding: {per_worker:,.0f} images/s per worker.")
        if measured.device == "cpu":
            lines.append("on a CPU, decoding and the step share the cores: together they can be slower than either.")
    return lines


def advice(measured: "StageSpeeds", cores: int) -> str:
    """Return the remedy for the bottleneck, as one sentence."""
    return {
        "storage": _storage,
        "decoding": _decoding,
        "augmentation": _augmentation,
        "transfer": _transfer,
        "step": _step,
    }[measured.bottleneck](measured, cores)


def _sufficient_side(measured: "StageSpeeds") -> int | None:
    """Return a sufficient shorter side in pixels if the stored images are much larger; else `None`."""
    side = round(measured.train_side * 8 / 7)
    return side if measured.image_side > 1.3 * side else None


def _storage(measured: "StageSpeeds", cores: int) -> str:
    side = _sufficient_side(measured)
    smaller = f" --max-side {side}, for fewer bytes" if side else ""
    if measured.is_remote:
        packed = f", or pack smaller images (resnetlab data pack --max-side {side})" if side else ""
        return (
            "use a cache that holds all shards (--cache-gib), so that only the first epoch waits; or copy them to a "
            f"local disk{packed}."
        )
    return f"pack the images into shards (resnetlab data pack{smaller}), or put them on a faster local disk."


def _decoding(measured: "StageSpeeds", cores: int) -> str:
    if measured.workers < cores:
        return f"use more workers: --workers {cores} for {cores} cores."
    side = _sufficient_side(measured)
    if side:
        return (
            f"pack smaller images (resnetlab data pack --max-side {side}); the shorter side has "
            f"{measured.image_side:,.0f} pixels now."
        )
    return "the images are small already: use a machine with more cores, or a larger network."


def _augmentation(measured: "StageSpeeds", cores: int) -> str:
    return "use a recipe without jitter and lighting, such as imagenet-90."


def _transfer(measured: "StageSpeeds", cores: int) -> str:
    return "images are transferred as bytes already: check the PCIe lanes of the device, or use fewer devices per host."


def _step(measured: "StageSpeeds", cores: int) -> str:
    if measured.device == "cpu":
        return (
            "the data pipeline keeps up; bf16 (--precision auto measures it), smaller images, a smaller network or a "
            "GPU is faster."
        )
    if "bf16" not in measured.execution:
        return "the data pipeline keeps up; --precision bf16 is faster on most GPUs."
    return "the data pipeline keeps up; a larger batch or --compile on may be faster."
