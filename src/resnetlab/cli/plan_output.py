"""The output of `resnetlab plan`: a plan in two columns, and published speeds beside predictions."""

import shutil
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from resnetlab.cli.terminal import print_json
from resnetlab.system.count_text import count_text

if TYPE_CHECKING:
    from resnetlab.cli.plan import Options
    from resnetlab.planning.plan import Cluster, Plan, Workload


def print_plan(prediction: "Plan", work: "Workload", cluster: "Cluster", *, options: "Options") -> None:
    """Print a plan as text in two columns."""
    device = cluster.device
    sizes = " then ".join(str(size) for _, size, _ in work.costs)
    epochs = f"{work.epochs:,.0f}" if work.epochs >= 100 else f"{work.epochs:.3g}"
    origin = f"--batch-size {work.batch_size}" if options.batch_size else "from the recipe (--batch-size changes it)"
    limits = ", ".join(f"{resource} {format_amount(speed, 0)}" for resource, speed in prediction.limits.items())
    steps = f"{count_text(prediction.steps, 'step')} of {count_text(work.batch_size, 'image')}"
    rows: dict[str, Any] = {
        "work": f"{options.model} on {options.data}, recipe {options.recipe}: {epochs} epoch{'s' * (epochs != '1')} of "
        f"{work.num_images:,} images, {sizes} pixels",
        "on": f"{cluster.num_devices:,} x {device.title}, {work.precision}; {work.batch_size:,} images a step on all "
        f"devices, {origin}",
        "": "",
        "time": f"{format_duration(3600 * prediction.hours)}: {format_amount(prediction.images_per_s, 0)} images/s, "
        f"{steps} in {format_duration(prediction.step_s)} each; "
        "without validation",
        "bottleneck": f"{prediction.bottleneck} (limits in images/s: {limits})",
        "memory": f"{prediction.memory_gib:.1f} of {device.memory_gib:.3g} GiB on each device",
        "storage": _describe_storage(options, work, prediction),
        "exchange": _describe_exchange(cluster, prediction),
    }
    if prediction.money is not None:
        rows["money"] = (
            f"{format_amount(prediction.money, 2)} at {format_amount(cluster.price_per_hour or 0, 2)} an hour for "
            f"each device, with {work.batch_size:,} images a step"
        )
    print_rows([*rows.items(), *(("note", note) for note in prediction.notes)])


def _describe_storage(options: "Options", work: "Workload", prediction: "Plan") -> str:
    """Return the bandwidth that the training needs and, if given, that of the storage."""
    needed = "none: images stay in memory"
    if work.image_bytes:
        needed = f"{format_rate(prediction.storage_bytes_per_s)} needed"
    if options.storage_mb_per_s is None:
        return needed
    return f"{needed}, {format_rate(options.storage_mb_per_s * 1e6)} available"


def _describe_exchange(cluster: "Cluster", prediction: "Plan") -> str:
    """Return the traffic and time of summing gradients."""
    if cluster.num_devices == 1:
        return "none: there is one device"
    overlap = "all of it during the backward pass"
    if prediction.exposed_s:
        overlap = f"devices wait for {format_duration(prediction.exposed_s)} of it"
    return (
        f"{prediction.exchange_bytes / 1e6:,.1f} MB sent by each device a step, "
        f"in {format_duration(prediction.exchange_s)}; {overlap}"
    )


def print_rows(rows: list[tuple[str, str]]) -> None:
    """Print names and texts in two columns."""
    width = min(80, shutil.get_terminal_size().columns)
    for name, text in rows:
        print(textwrap.fill(text, width, initial_indent=f"{name:<12}", subsequent_indent=" " * 12) or "")


def format_duration(seconds: float) -> str:
    """Return a duration in a readable unit."""
    for unit, length, least in (("days", 86_400, 2), ("hours", 3600, 1), ("minutes", 60, 2), ("s", 1, 1)):
        if seconds >= least * length:
            return f"{format_amount(seconds / length, 1)} {unit}"
    return f"{1000 * seconds:.3g} ms"


def format_amount(number: float, decimals: int) -> str:
    """Return a number with `decimals` decimals; very small and large numbers with three significant digits."""
    if number and not 10.0**-decimals <= number < 1e12:
        return f"{number:.3g}"
    return f"{number:,.{decimals}f}"


def format_rate(bytes_per_s: float) -> str:
    """Return a bandwidth in MB/s or GB/s."""
    if bytes_per_s >= 1e10:
        return f"{bytes_per_s / 1e9:,.0f} GB/s"
    return f"{bytes_per_s / 1e6:,.0f} MB/s" if bytes_per_s >= 1e7 else f"{bytes_per_s / 1e6:.2g} MB/s"


def print_published(*, as_json: bool) -> int:
    """Print published speeds and the predictions for them, the speeds on which constants were set first."""
    from resnetlab.cli.console import open_console
    from resnetlab.cli.tables import table
    from resnetlab.planning.published_speeds import COMPARED_DEVICES, PUBLISHED_SPEEDS
    from resnetlab.planning.workload import predict_published_speed

    predictions = [(published, predict_published_speed(published)) for published in PUBLISHED_SPEEDS]
    if as_json:
        print_json([{**asdict(published), "predicted_images_per_s": speed} for published, speed in predictions])
        return 0
    console = open_console(highlight=False)
    for held_out, title in ((False, "constants were set on these"), (True, "held out")):
        rows = table(title, "published", "predicted", "error", left=1)
        for published, speed in predictions:
            if published.held_out != held_out:
                continue
            single = "fp32" if COMPARED_DEVICES[published.device].tf32_ops_per_s is None else "TF32"
            precision = "16 bits" if published.half else single
            rows.add_row(
                f"{published.model}, {published.devices} x {published.device}, {precision}",
                f"{published.images_per_s:,.0f}",
                f"{speed:,.0f}",
                f"{100 * (speed / published.images_per_s - 1):+.0f} %",
            )
        console.print(rows, width=min(80, console.width))
        console.print()
    console.print("images/s; sources: docs/scale.md, or --json", width=min(80, console.width))
    return 0
