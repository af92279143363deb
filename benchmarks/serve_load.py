"""Measure `resnetlab serve` under load, from a second process on this machine, over loopback.

1. One client: p50 of a request, relative to p50 of decoding and the network alone (`serve_baseline`). The sides take
   turns; the result is the median of the ratios.
2. 32 clients: images per second, relative to the network alone at full batches (`Engine.logits`), also in turns.
3. Overload: for a minute, four times the rate that (2) reached is offered, in an open loop. Checked are the statuses,
   the memory of the server's processes, p99 of the accepted requests, and the time until one client's p50 is back
   after the last request. The bound for p99 is 1.5 times the expected wait: all images ahead in the full queue and in
   the worker, divided by the accepted images per second.

    python benchmarks/serve_load.py --images FOLDER
    python benchmarks/serve_load.py --images FOLDER --model resnet50.safetensors --backend openvino --turns 5

Without `--model` it measures a ResNet-50 with random weights. The exit status is 1 if a bound is missed. Other load on
the machine makes every figure worse.
"""

import argparse
import asyncio
import json
import math
import platform
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from benchmark_data import add_data_argument
from load_client import LoadClient, LoadResult, post_request
from resnetlab.config import Preprocessing
from resnetlab.models.model_file import ModelCard, save_model
from resnetlab.models.zoo import build_model
from resnetlab.serving.limits import Limits
from resnetlab.system.cores import usable_cores
from serve_baseline import full_batches_per_s, load_baseline, single_image_p50_s
from server_process import RunningServer, run_server

MAX_LATENCY_RATIO, MIN_THROUGHPUT_RATIO = 1.15, 0.90
"""Bounds of (1) and (2)."""
MAX_MEMORY_DEVIATION, MAX_RECOVERY_S = 0.05, 5
"""Bounds of (3): relative deviation of memory from its median; seconds until one client is served as before, beyond the
p99 of the overload, in which the queue empties."""
MIN_GOODPUT_RATIO = 0.8
"""Images per second of the overload that get a result, relative to (2)."""
MAX_WAIT_RATIO = 1.5
"""p99 of the wait in a full queue, relative to its mean: the speed is not constant."""
AFTER_S = 20
"""Seconds that one client is measured after the overload."""
NUM_CLIENTS = 32
OVERLOAD_FACTOR = 4
"""Offered rate relative to the capacity."""
MEMORY_WARMUP_S = 10
"""Seconds of overload after which memory must be constant: by then every buffer has been filled once."""


@dataclass
class Row:
    """A row of the printed table."""

    label: str
    value: str
    bound: str = ""
    passed: bool = True


# ---- measurements


@dataclass
class Turn:
    """One turn: the server with one client and with 32, and the baseline for each."""

    one_client_p50_s: float
    baseline_p50_s: float
    many_clients: LoadResult
    baseline_images_per_s: float


async def measure(server: RunningServer, baseline: ProcessPoolExecutor, options: argparse.Namespace) -> list[Row]:
    """Return the rows of the table."""
    images = [path.read_bytes() for path in sorted(options.images.rglob("*.*"))[:100]]
    client = LoadClient(server.port, [post_request("/v1/predict", server.port, image) for image in images])
    try:
        await measure_turn(client, baseline, images, options.seconds)  # warm-up
        turns = [await measure_turn(client, baseline, images, options.seconds) for _ in range(options.turns)]
        one_client_p50_s = statistics.median(turn.one_client_p50_s for turn in turns)
        capacity_per_s = statistics.median(turn.many_clients.accepted_per_s for turn in turns)
        rows = normal_load_rows(turns)
        result, memory_mib, after = await overload(server, client, OVERLOAD_FACTOR * capacity_per_s, options.overload_s)
        rows += overload_rows(result, memory_mib, capacity_per_s)
        return [*rows, recovery_row(after, one_client_p50_s, drain_s=quantile_s(result, 0.99))]
    finally:
        client.close()


async def measure_turn(
    client: LoadClient, baseline: ProcessPoolExecutor, images: list[bytes], duration_s: float
) -> Turn:
    """Measure each side once; the other is idle meanwhile.

    The event loop keeps running, so that connections that the idle server closes are noticed.
    """
    baseline_p50_s = await asyncio.wrap_future(baseline.submit(single_image_p50_s, images, duration_s))
    one = await client.closed_loop(1, duration_s)
    baseline_images_per_s = await asyncio.wrap_future(
        baseline.submit(full_batches_per_s, images, Limits().max_batch, duration_s)
    )
    many = await client.closed_loop(NUM_CLIENTS, duration_s)
    rejected = (one.statuses | many.statuses).keys() - {"200"}
    if rejected:
        sys.exit(
            f"{NUM_CLIENTS} clients got {', '.join(sorted(rejected))} besides 200; the queue must hold {NUM_CLIENTS}"
        )
    return Turn(statistics.median(one.latencies_s), baseline_p50_s, many, baseline_images_per_s)


async def overload(
    server: RunningServer, client: LoadClient, rate_per_s: float, duration_s: float
) -> tuple[LoadResult, list[float], LoadResult]:
    """Overload the server, then load it with one client.

    Returns:
        The result of the overload, memory in MiB every half second, and the result of the single client.
    """
    memory_mib, overloading = [], asyncio.create_task(client.open_loop(rate_per_s, duration_s))
    for _ in range(round(2 * duration_s)):
        await asyncio.sleep(0.5)
        memory_mib.append(server.memory_mib())
    single_client = LoadClient(server.port, list(client.requests))
    after = await single_client.closed_loop(1, AFTER_S)
    single_client.close()
    return await overloading, memory_mib, after


# ---- the table


def normal_load_rows(turns: list[Turn]) -> list[Row]:
    """Return the rows of (1) and (2)."""
    median = statistics.median
    one_ms = 1000 * median(turn.one_client_p50_s for turn in turns)
    baseline_ms = 1000 * median(turn.baseline_p50_s for turn in turns)
    latency_ratio = median(turn.one_client_p50_s / turn.baseline_p50_s for turn in turns)
    many_per_s = median(turn.many_clients.accepted_per_s for turn in turns)
    baseline_per_s = median(turn.baseline_images_per_s for turn in turns)
    throughput_ratio = median(turn.many_clients.accepted_per_s / turn.baseline_images_per_s for turn in turns)
    p99_ms = 1000 * median(quantile_s(turn.many_clients, 0.99) for turn in turns)
    client_load = median(turn.many_clients.client_cpu_s / turn.many_clients.duration_s for turn in turns)
    return [
        Row("one client, p50; decoding + network alone", f"{one_ms:.2f} ms; {baseline_ms:.2f}"),
        Row("  ratio", f"{latency_ratio:.3f}", f"<= {MAX_LATENCY_RATIO}", latency_ratio <= MAX_LATENCY_RATIO),
        Row(f"{NUM_CLIENTS} clients; network alone, full batches", f"{many_per_s:.1f}/s; {baseline_per_s:.1f}"),
        Row(
            "  ratio",
            f"{throughput_ratio:.3f}",
            f">= {MIN_THROUGHPUT_RATIO}",
            throughput_ratio >= MIN_THROUGHPUT_RATIO,
        ),
        Row("  p99; the client's share of a core", f"{p99_ms:.0f} ms; {client_load:.0%}"),
    ]


def overload_rows(result: LoadResult, memory_mib: list[float], capacity_per_s: float) -> list[Row]:
    """Return the rows of (3) during the overload."""
    limits = Limits()
    counts = ", ".join(f"{status}: {count:,}" for status, count in sorted(result.statuses.items()))
    unexpected = result.statuses.keys() - {"200", "429", "503"}
    steady_mib = memory_mib[2 * MEMORY_WARMUP_S :] or memory_mib
    median_mib = statistics.median(steady_mib)
    deviation = max(abs(value / median_mib - 1) for value in steady_mib)
    images_ahead = limits.max_queue + limits.max_in_worker
    p99_s, bound_s = quantile_s(result, 0.99), MAX_WAIT_RATIO * images_ahead / result.accepted_per_s
    client_load = result.client_cpu_s / result.duration_s
    goodput_ratio = result.accepted_per_s / capacity_per_s
    return [
        Row(f"{OVERLOAD_FACTOR} times that offered, {result.duration_s:.0f} s", f"{result.offered_per_s:.0f}/s"),
        Row(f"  {counts}", "", "no other", not unexpected),
        Row("  accepted; the client's share of a core", f"{result.accepted_per_s:.1f}/s; {client_load:.0%}"),
        Row(
            f"  relative to {NUM_CLIENTS} clients",
            f"{goodput_ratio:.3f}",
            f">= {MIN_GOODPUT_RATIO}",
            goodput_ratio >= MIN_GOODPUT_RATIO,
        ),
        Row(f"  memory after {MEMORY_WARMUP_S} s, server and worker", f"{median_mib:.0f} MiB"),
        Row(
            "  at its start, largest, at its end",
            f"{memory_mib[0]:.0f}, {max(memory_mib):.0f}, {memory_mib[-1]:.0f} MiB",
        ),
        Row(
            "  largest deviation from it",
            f"{deviation:.1%}",
            f"<= {MAX_MEMORY_DEVIATION:.0%}",
            deviation <= MAX_MEMORY_DEVIATION,
        ),
        Row("  p50 of the accepted", f"{quantile_s(result, 0.5):.2f} s"),
        Row(
            f"  p99; bound: {MAX_WAIT_RATIO} x {images_ahead} images at that rate",
            f"{p99_s:.2f} s",
            f"<= {bound_s:.2f} s",
            p99_s <= bound_s,
        ),
    ]


def recovery_row(after: LoadResult, p50_before_s: float, *, drain_s: float) -> Row:
    """Return the row of (3) after the overload: the first second from which on p50 is as before.

    Both the p50 of that second and the p50 of all later requests must be within MAX_LATENCY_RATIO. `drain_s` is the
    time in which the queue empties.
    """
    latencies_s = [(due - after.start, latency) for due, latency in after.accepted]
    recovered_after = None
    for second in range(AFTER_S):
        in_second = [latency for at, latency in latencies_s if second <= at < second + 1]
        later = [latency for at, latency in latencies_s if at >= second]
        p50_s = max(statistics.median(in_second), statistics.median(later)) if in_second else None
        if p50_s is not None and p50_s <= MAX_LATENCY_RATIO * p50_before_s:
            recovered_after = second
            break
    value = f"not in {AFTER_S} s" if recovered_after is None else f"{recovered_after} s"
    bound_s = math.ceil(drain_s) + MAX_RECOVERY_S
    passed = recovered_after is not None and recovered_after <= bound_s
    return Row(f"  one client's p50 is back (x {MAX_LATENCY_RATIO}) after", value, f"<= {bound_s} s", passed)


def quantile_s(result: LoadResult, fraction: float) -> float:
    """Return a quantile of the accepted requests' latencies in seconds."""
    ordered = result.latencies_s
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]


def print_rows(model_info: dict, rows: list[Row], *, as_json: bool) -> None:
    """Print the table, 80 columns wide, or JSON."""
    served = f"{model_info['name']} at {model_info['image_size']}, {model_info['runtime']}"
    machine = f"{usable_cores()} cores, Python {platform.python_version()}, Linux {platform.release()}"
    if as_json:
        lines = [{"what": row.label, "found": row.value, "bound": row.bound, "kept": row.passed} for row in rows]
        print(json.dumps({"served": served, "machine": machine, "lines": lines}))
        return
    print(f"{served}; {machine}")
    for row in rows:
        missed = "" if row.passed else " MISSED"
        print(f"{row.label:<45}{row.value:>16}  {row.bound}{missed}".rstrip())


# ---- main


def main() -> int:
    """Measure and print; return 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description="load a server on this machine, and compare it with a baseline")
    parser.add_argument("--model", type=Path, help="model to serve; default: a ResNet-50 with random weights")
    parser.add_argument("--backend", default="auto", help="as for `resnetlab serve`")
    add_data_argument(parser, "--images", "imagenette224-sample/val", "folder with images, at any depth")
    parser.add_argument("--turns", type=int, default=5, help="number of measurements of each side")
    parser.add_argument("--seconds", type=float, default=4, help="duration of each measurement")
    parser.add_argument("--overload-s", type=float, default=60, help="duration of the overload; 600 for ten minutes")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if not any(options.images.rglob("*.*")):
        sys.exit(f"{options.images}: no images; pass a folder of images with --images")
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or save_random_model(Path(folder) / "resnet50.safetensors")
        with run_server(model, options.backend) as server:
            model_info = server.get_json("/v1/model")
            arguments = (model, options.backend, model_info["runtime"])
            with ProcessPoolExecutor(1, get_context("spawn"), load_baseline, arguments) as baseline:
                rows = asyncio.run(measure(server, baseline, options))
    print_rows(model_info, rows, as_json=options.json)
    return int(not all(row.passed for row in rows))


def save_random_model(path: Path) -> Path:
    """Save a ResNet-50 with random weights: its speed is that of a trained one."""
    model = build_model("resnet50", 10)
    preprocessing = Preprocessing(224, (0.48, 0.46, 0.41), (0.23, 0.22, 0.22), crop_ratio=0.875)
    save_model(path, model, ModelCard(model.config, tuple("0123456789"), preprocessing))
    return path


if __name__ == "__main__":
    sys.exit(main())
