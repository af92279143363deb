"""Memory saved and time added by activation checkpointing, on the paper's 1202-layer network.

Memory counts the tensors that autograd stores after the forward pass of a small batch, scaled to the requested batch,
plus the largest set of tensors that one segment recomputes at a time. It also measures the peak resident memory of one
real step in a separate process. Times are of whole steps, at a batch that fits without checkpointing; the two sides
take turns.

    python benchmarks/activation_checkpointing.py --pairs 3
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from resnetlab.models.activation_checkpointing import checkpoint_segments
from resnetlab.models.resnet import ResNet
from resnetlab.models.zoo import build_model

MEMORY_BOUND_GIB = 1.5
TIME_BOUND = 1.4
PROBE = 2
"""Images in the counting passes."""


def main() -> int:
    """Count, run and print; return 1 if memory or time exceeds its bound."""
    parser = argparse.ArgumentParser(description="measure memory and time of activation checkpointing")
    parser.add_argument("--model", default="resnet1202", help="a network for images of 32x32 pixels")
    parser.add_argument("--batch", type=int, default=128, help="batch size for which memory is counted")
    parser.add_argument("--time-batch", type=int, default=32, help="batch size of the timed steps")
    parser.add_argument("--pairs", type=int, default=3, help="number of timed steps of each side")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-rss", action="store_true", help="skip the real step at the full batch size")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--only-step", action="store_true", help=argparse.SUPPRESS)  # for the separate process
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.only_step:
        print(json.dumps(real_step(options.model, options.batch)))
        return 0
    result: dict[str, Any] = {"memory": memory(options.model, options.batch)}
    result["time"] = times(options.model, options.time_batch, options.pairs)
    if not options.no_rss:
        words = ["--only-step", "--model", options.model, "--batch", options.batch, "--threads", options.threads]
        command = [sys.executable, __file__, *map(str, words)]
        result["real_step"] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    result["bounds"] = {"peak_gib": MEMORY_BOUND_GIB, "ratio": TIME_BOUND}
    if options.json:
        print(json.dumps(result))
    else:
        for name, values in result.items():
            print(f"{name:<10}", json.dumps(values))
    return int(result["memory"]["peak_gib"] > MEMORY_BOUND_GIB or result["time"]["median_ratio"] > TIME_BOUND)


def memory(name: str, batch: int) -> dict[str, float]:
    """Return activation memory in GiB at a batch size: without and with checkpointing, and of the largest segment.

    `peak_gib` is the sum of the last two. It is an upper bound: in the backward pass of an early segment, the inputs of
    later segments are already freed.
    """
    model = build_model(name).train()
    images = torch.randn(PROBE, 3, 32, 32)
    without = kept_bytes(model, lambda: model(images), batch)
    model.activation_checkpointing = True
    kept = kept_bytes(model, lambda: model(images), batch)
    x = model.stem(images)
    largest = 0
    for stage in model.stages.values():
        for segment in checkpoint_segments(stage):
            x = x.detach().requires_grad_()  # the input counts as stored
            run = torch.nn.Sequential(*segment)
            largest = max(largest, kept_bytes(model, lambda run=run, x=x: run(x), batch, x))
            with torch.no_grad():
                x = run(x)
    gib = {"without": without, "kept": kept, "largest_segment": largest, "peak": kept + largest}
    return {f"{name}_gib": value / 2**30 for name, value in gib.items()}


def kept_bytes(model: ResNet, forward: Callable[[], Tensor], batch: int, *known: Tensor) -> int:
    """Return the bytes that autograd stores for a forward pass of `batch` images, except parameters and `known`."""
    seen = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *known)}
    total = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal total
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            per_image = tensor.dim() > 1  # BN's mean and variance serve the whole batch
            total += storage.nbytes() * batch // PROBE if per_image else storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _output = forward()  # a name keeps all stored tensors alive until they are counted
    return total


def times(name: str, batch: int, pairs: int) -> dict[str, Any]:
    """Return step times in seconds with and without checkpointing, in turn, after one warm-up step of each."""
    model, step = trainer(name, batch)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for index in range(-1, pairs):
        for activation_checkpointing in (False, True) if index % 2 else (True, False):  # neither is always second
            model.activation_checkpointing = activation_checkpointing
            start = time.perf_counter()
            step()
            if index >= 0:
                seconds[activation_checkpointing].append(time.perf_counter() - start)
    ratios = [again / kept for again, kept in zip(seconds[True], seconds[False], strict=True)]
    return {
        "batch": batch,
        "without_s": seconds[False],
        "recompute_s": seconds[True],
        "ratios": ratios,
        "median_ratio": statistics.median(ratios),
    }


def real_step(name: str, batch: int) -> dict[str, float]:
    """Return the peak resident memory of this process in GiB, before and after one step with checkpointing."""
    model, step = trainer(name, batch)
    model.activation_checkpointing = True
    before = peak_rss_gib()
    start = time.perf_counter()
    step()
    step_s = time.perf_counter() - start
    return {"batch": batch, "step_s": step_s, "rss_before_gib": before, "rss_peak_gib": peak_rss_gib()}


def peak_rss_gib() -> float:
    """Return the peak resident memory of this process so far, in GiB (Linux; `ru_maxrss` includes the parent's)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**20


def trainer(name: str, batch: int) -> tuple[ResNet, Callable[[], None]]:
    """Return a network and a function that runs one training step on noise, with the memory layout that `fit` uses."""
    model = build_model(name).train()
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # a stub lacks it
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, fused=True)
    images = torch.randn(batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, model.config.num_classes, (batch,))

    def step() -> None:
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return model, step


if __name__ == "__main__":
    sys.exit(main())
