"""What listening to a run costs: steps that are heard against steps that are not, in turn, in one process.

The share of training time is what a heard step takes longer, over the steps between two samples at the default
interval. Issue 4 asks for less than 3 %. The images are random: their content does not change the time of a step.

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
from resnetlab.training.execution import Execution, make_forward  # noqa: E402
from resnetlab.training.layer_stats import LayerStatsHook, sampling_interval  # noqa: E402

BOUND_PCT = 3.0
"""The share that issue 4 asks for."""

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
    """Measure every case; return 1 where the share is above the bound."""
    parser = argparse.ArgumentParser(description="time steps with and without signals")
    parser.add_argument(
        "--rounds", type=int, default=30, help="steps of each kind, for small images; a third of it else"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    rows = []
    for name, batch, pixels, channels, steps, threads, precision in CASES:
        torch.set_num_threads(threads)
        rounds = options.rounds if pixels < 32 else max(3, options.rounds // 3)
        bare_s, heard_s = measure(name, batch, pixels, channels, precision, rounds)
        every = sampling_interval(None, steps)
        share_pct = 100 * (heard_s - bare_s) / (every * bare_s)
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
                "heard_ms": 1e3 * heard_s,
                "share_pct": share_pct,
            }
        )
        if not options.json:
            print(
                f"{name}, batch {batch}, {pixels} px, {precision}, {threads} thread(s): step {1e3 * bare_s:.1f} ms, "
                f"heard {1e3 * heard_s:.1f}, every {every} of {steps:,}: {share_pct:.2f} %",
                flush=True,
            )
    if options.json:
        print(json.dumps({"cases": rows, "bound_pct": BOUND_PCT}))
    return int(max(row["share_pct"] for row in rows) >= BOUND_PCT)


def measure(name: str, batch: int, pixels: int, channels: int, precision: str, rounds: int) -> tuple[float, float]:
    """Return the mean seconds of a bare step, and of a heard one, without the slowest tenth (the machine was away)."""
    model = build_model(name, in_channels=channels).train()
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # a stub lacks it
    forward = make_forward(model, Execution(precision))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, fused=True)
    images = torch.rand(batch, channels, pixels, pixels).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,))
    sampler = LayerStatsHook(model, forward, every=2, total_steps=10**9)  # even steps are heard
    times: dict[int, list[float]] = {0: [], 1: []}
    for step in range(2 * (rounds + 2)):
        start = time.perf_counter()
        with sampler.listen(step) as heard:
            loss, _ = forward(images, labels)
        optimizer.zero_grad()
        loss.backward()
        if heard:
            heard.signal(step=step, lr=1e-3, loss=loss.item())
        optimizer.step()
        times[step % 2].append(time.perf_counter() - start)
    heard_s, bare_s = (statistics.fmean(sorted(times[kind][2:])[: -(rounds // 10) or None]) for kind in (0, 1))
    return bare_s, heard_s


if __name__ == "__main__":
    sys.exit(main())
