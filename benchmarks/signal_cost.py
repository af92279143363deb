"""Measure the cost of layer statistics: steps with and without the hooks, in turn, in one process.

The share of training time is the extra time of a sampled step, divided by the steps between two samples at the default
interval. The images are random: their content does not change the time of a step.

    python benchmarks/signal_cost.py --rounds 30
"""

import argparse
import json
import statistics
import sys
import time

import torch

from resnetlab.system.allocator import use_huge_pages

use_huge_pages()  # as the command line does

from resnetlab.models.zoo import build_model  # noqa: E402
from resnetlab.training.execution.execution import Execution, make_forward  # noqa: E402
from resnetlab.training.layer_stats import LayerStatsHook, sampling_interval  # noqa: E402

BOUND_PCT = 3.0
"""Largest share of training time."""

CASES = (
    ("plain20", 16, 8, 1, 390, 1, "fp32"),
    ("plain56", 16, 8, 1, 390, 1, "fp32"),
    ("resnet56", 16, 8, 1, 390, 1, "fp32"),
    ("resnet20", 128, 32, 3, 64_000, 2, "bf16"),
    ("resnet56", 128, 32, 3, 64_000, 2, "bf16"),
    ("resnet20", 128, 32, 3, 351, 2, "bf16"),
)
"""Network, batch size, pixels, channels, steps of the run, threads, precision: the default study, then CIFAR-10."""


def main() -> int:
    """Measure every case; return 1 if a share exceeds the bound."""
    parser = argparse.ArgumentParser(description="time steps with and without layer statistics")
    parser.add_argument(
        "--rounds", type=int, default=30, help="steps of each kind for small images; a third of that for others"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    rows = []
    for name, batch, pixels, channels, steps, threads, precision in CASES:
        torch.set_num_threads(threads)
        rounds = options.rounds if pixels < 32 else max(3, options.rounds // 3)
        bare_s, sampled_s = measure(name, batch, pixels, channels, precision, rounds)
        every = sampling_interval(None, steps)
        share_pct = 100 * (sampled_s - bare_s) / (every * bare_s)
        rows.append(
            {
                "network": name,
                "batch": batch,
                "pixels": pixels,
                "steps": steps,
                "precision": precision,
                "threads": threads,
                "every": every,
                "bare_ms": 1e3 * bare_s,
                "sampled_ms": 1e3 * sampled_s,
                "share_pct": share_pct,
            }
        )
        if not options.json:
            print(
                f"{name}, batch {batch}, {pixels} px, {precision}, {threads} thread(s): step {1e3 * bare_s:.1f} ms, "
                f"sampled {1e3 * sampled_s:.1f}, every {every} of {steps:,}: {share_pct:.2f} %",
                flush=True,
            )
    if options.json:
        print(json.dumps({"cases": rows, "bound_pct": BOUND_PCT}))
    return int(max(row["share_pct"] for row in rows) >= BOUND_PCT)


def measure(name: str, batch: int, pixels: int, channels: int, precision: str, rounds: int) -> tuple[float, float]:
    """Return the mean seconds of a step without and with statistics, each without its slowest tenth."""
    model = build_model(name, in_channels=channels).train()
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # a stub lacks it
    forward = make_forward(model, Execution(precision))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, fused=True)
    images = torch.rand(batch, channels, pixels, pixels).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,))
    hook = LayerStatsHook(model, forward, every=2, total_steps=10**9)  # even steps are sampled
    times: dict[int, list[float]] = {0: [], 1: []}
    for step in range(2 * (rounds + 2)):
        start = time.perf_counter()
        with hook.record(step) as stats:
            loss, _ = forward(images, labels)
        optimizer.zero_grad()
        loss.backward()
        if stats:
            stats.to_record(step=step, lr=1e-3, loss=loss.item())
        optimizer.step()
        times[step % 2].append(time.perf_counter() - start)
    sampled_s, bare_s = (statistics.fmean(sorted(times[kind][2:])[: -(rounds // 10) or None]) for kind in (0, 1))
    return bare_s, sampled_s


if __name__ == "__main__":
    sys.exit(main())
