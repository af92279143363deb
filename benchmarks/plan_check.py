"""Compare `resnetlab plan --device here` with `resnetlab train`, for one and two processes.

Each side runs as a user runs it, with one thread per process, in turn. The plan measures a step in one process and
predicts both cases. Training under torchrun is timed by its own record, without the first epoch. The images are the
digits of scikit-learn at 32 pixels; their content does not change the time of a step. Prints a Markdown table, and
returns 1 if an error exceeds the bound in docs/scale.md.

    python benchmarks/plan_check.py
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

BOUND_PCT = 25.0
"""The bound that docs/scale.md states for a core of this machine."""
WORK = ("--data", "digits", "--image-size", "32", "--recipe", "cifar-paper")
TRAIN_IMAGES = 1257
"""Training images of digits."""
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def main() -> int:
    """Measure and print; return 1 if an error of the plan exceeds its bound."""
    parser = argparse.ArgumentParser(description="compare the plan with one and two training processes on this machine")
    parser.add_argument("--networks", nargs="+", default=["resnet20", "resnet8"], help="CIFAR networks")
    parser.add_argument("--batch", type=int, default=128, help="batch size over all processes")
    parser.add_argument("--turns", type=int, default=3, help="number of turns of each side")
    parser.add_argument("--seconds", type=float, default=6.0, help="approximate training time in a turn")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    rows = [row for name in options.networks for row in compare(name, options)]
    if options.json:
        print(json.dumps({"rows": rows, "bound_pct": BOUND_PCT}))
    else:
        print("| network | processes | images/s measured | planned | error |\n|---|---|---|---|---|")
        for row in rows:
            print(
                f"| {row['network']} | {row['processes']} | {row['measured']:,.0f} | {row['planned']:,.0f} | "
                f"{row['error_pct']:+.0f} % |"
            )
    return int(max(abs(row["error_pct"]) for row in rows) > BOUND_PCT)


def compare(network: str, options: argparse.Namespace) -> list[dict]:
    """Plan and train in turn; return a row for each number of processes."""
    found: dict[tuple[str, int], list[float]] = {}
    for turn in range(options.turns):
        for processes in (1, 2) if turn % 2 == 0 else (2, 1):  # neither is always last
            prediction = planned(network, processes, options.batch)
            measurement = measured(network, processes, options.batch, options.seconds * prediction)
            found.setdefault(("planned", processes), []).append(prediction)
            found.setdefault(("measured", processes), []).append(measurement)
            if not options.json:
                print(
                    f"{network}, {processes} processes: planned {prediction:,.0f} images/s, "
                    f"measured {measurement:,.0f}",
                    file=sys.stderr,
                    flush=True,
                )
    rows = []
    for processes in (1, 2):
        prediction, measurement = (statistics.median(found[side, processes]) for side in ("planned", "measured"))
        rows.append(
            {
                "network": network,
                "processes": processes,
                "measured": measurement,
                "planned": prediction,
                "error_pct": 100 * (prediction / measurement - 1),
                "turns": options.turns,
            }
        )
    return rows


def planned(network: str, processes: int, batch: int) -> float:
    """Return the images per second that the plan predicts; the plan runs one process with one thread."""
    words = ["plan", "--device", "here", "--devices", processes, "--precision", "fp32", "--json"]
    return json.loads(run("-m", "resnetlab", *words, "--model", network, "--batch-size", batch, *WORK))["images_per_s"]


def measured(network: str, processes: int, batch: int, images: float) -> float:
    """Train on about `images` images after a warm-up epoch; return images per second, the median of the epochs."""
    epochs = 1 + max(1, round(images / (TRAIN_IMAGES // batch * batch)))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "run")
        launcher = [
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            processes,
            "--rdzv-backend",
            "c10d",
            "--rdzv-endpoint",
            "localhost:0",
        ]
        words = [
            "train",
            "--model",
            network,
            "--batch-size",
            batch,
            "--epochs",
            epochs,
            "--precision",
            "fp32",
            "--device",
            "cpu",
            "--out",
            out,
        ]
        run(*launcher, "-m", "resnetlab", *words, *WORK)
        lines = [json.loads(line) for line in (out / "record.jsonl").read_text().splitlines()]
    return statistics.median([line["images_per_s"] for line in lines if line["kind"] == "epoch"][1:])


def run(*words: object) -> str:
    """Run Python with one thread per process; return its standard output, or exit with its standard error."""
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, env=ENVIRONMENT)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, words))}: exit status {done.returncode}\n{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
