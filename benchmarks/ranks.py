"""Train the same run in 1, 2 and 4 processes under torchrun (gloo), and compare the losses.

With `--sync-bn` every step equals that of one process up to rounding. Rounding differences grow from step to step. The
reference for "equal" is therefore a second run of ONE process that differs from the first in rounding only (another
memory layout). Several processes may differ from the first run by `TIMES` what the second run does, in the mean over
each tenth of the run. The model file of the first run is then evaluated in 1, 2 and 4 processes: the counts must be
equal, and the loss to 1e-6.

    python benchmarks/ranks.py --data CIFAR10
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmark_data import add_data_argument
from resnetlab.config import DataConfig, RunConfig
from resnetlab.models.zoo import model_config
from resnetlab.serialization import to_json
from resnetlab.training.recipes import recipe
from resnetlab.training.run_files.record import read_record

RANKS = (1, 2, 4)
FIRST_STEPS = 3
"""Steps that are printed one by one."""
AT_FIRST = 1e-5
"""Largest relative difference at the first step, before any update."""
TIMES = 4.0
"""Largest ratio to the difference by rounding alone; above 1, because the ratio of two equal runs varies."""


def main() -> int:
    """Train, compare and evaluate; return 1 if the runs are not the same."""
    parser = argparse.ArgumentParser(description="one run in 1, 2 and 4 processes")
    add_data_argument(parser, "--data", "cifar10", "CIFAR-10, as for resnetlab train --data")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--train-images", type=int)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        one = losses(train(options, Path(folder, "one"), 1, "channels_last"))
        runs = {"1, rounded otherwise": losses(train(options, Path(folder, "other"), 1, "contiguous"))}
        for ranks in RANKS[1:]:
            runs[str(ranks)] = losses(train(options, Path(folder, f"ranks-{ranks}"), ranks, "channels_last"))
        good = compare(one, runs)
        evaluations = {ranks: evaluate(Path(folder, "one"), ranks) for ranks in RANKS}
    same = all(counts(evaluations[ranks]) == counts(evaluations[1]) for ranks in RANKS)
    apart = max(abs(evaluations[ranks]["loss"] - evaluations[1]["loss"]) for ranks in RANKS)
    print(
        f"\nevaluation of one model file, {evaluations[1]['num_samples']:,} test images, in 1, 2 and 4 processes: "
        f"counts {'equal' if same else 'DIFFER'}; loss differs by {apart:.1e} at most"
    )
    return int(not (good and same and apart < 1e-6))


def train(options: argparse.Namespace, out: Path, ranks: int, layout: Any) -> Path:
    """Train in `ranks` processes of one thread each, recording the loss of every step; return the run directory."""
    model = model_config(options.model)
    config = RunConfig(
        model,
        DataConfig(str(options.data), train_images=options.train_images),
        recipe("cifar-paper", model, steps=options.steps, batch_size=options.batch_size, lr=options.lr),
        layout=layout,
        precision="fp32",
        compile="off",
        sync_bn=True,
        layer_stats_steps=1,
    )
    out.mkdir()
    (out / "config.json").write_text(json.dumps(to_json(config)))
    torchrun(ranks, "train", "--resume", "--out", out, "--json")
    return out


def torchrun(ranks: int, *words: object) -> dict[str, Any]:
    """Run a resnetlab command in `ranks` processes; return the JSON that the first process prints."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", ranks, "-m", "resnetlab", *words]
    done = subprocess.run(
        list(map(str, command)),
        check=True,
        stdout=subprocess.PIPE,
        stderr=sys.stderr,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return json.loads(done.stdout)


def losses(out: Path) -> list[float]:
    """Return the loss of every step."""
    return [line["loss"] for line in read_record(out / "record.jsonl") if line["kind"] == "signal"]


def compare(one: list[float], runs: dict[str, list[float]]) -> bool:
    """Print the difference of each run from the first; return whether all are within bounds."""
    edges = [round(len(one) * tenth / 10) for tenth in range(11)]
    apart = {name: [mean_apart(one, its, *edge) for edge in pairwise(edges)] for name, its in runs.items()}
    relative = {
        name: [abs(a - b) / a for a, b in zip(one, its, strict=True)][:FIRST_STEPS] for name, its in runs.items()
    }
    yardstick = next(iter(apart.values()))
    print(
        f"mean |loss - loss of one process| over each tenth of {len(one)} steps; loss {one[0]:.3f} to {one[-1]:.3f}\n"
    )
    print("| processes | steps 1, 2, 3, relative | " + " | ".join(f"{10 * n} %" for n in range(1, 11)) + " |")
    print("|---|---|" + "---|" * 10)
    for name, its in apart.items():
        print(f"| {name} | {format_values(relative[name], ', ')} | {format_values(its, ' | ')} |")
    near = all(
        its <= TIMES * max(yardstick[: tenth + 1]) for values in apart.values() for tenth, its in enumerate(values)
    )
    return near and all(values[0] < AT_FIRST for values in relative.values())


def format_values(values: list[float], separator: str) -> str:
    """Return small numbers as text."""
    return separator.join(f"{value:.1e}" for value in values)


def mean_apart(one: list[float], other: list[float], start: int, stop: int) -> float:
    """Return the mean absolute difference over a range of steps."""
    return math.fsum(abs(a - b) for a, b in zip(one[start:stop], other[start:stop], strict=True)) / (stop - start)


def evaluate(model: Path, ranks: int) -> dict[str, Any]:
    """Evaluate a model file on its test images."""
    return torchrun(ranks, "evaluate", model, "--split", "test", "--json")


def counts(evaluation: dict[str, Any]) -> tuple[Any, ...]:
    """Return the values that must be equal."""
    return (
        evaluation["num_samples"],
        evaluation["top1_error_pct"],
        evaluation["top5_error_pct"],
        evaluation["confusion"],
    )


if __name__ == "__main__":
    sys.exit(main())
