"""Does training in bf16 end where training in fp32 does? Several seeds of a short CIFAR-10 run, both precisions.

Prints each run's errors, mean and standard deviation over the seeds, and the difference with its 95 % interval (paired
Student's t). Runs are kept in --out, and the same command continues where it was stopped.

    python benchmarks/bf16_agreement.py --data ../shared/data/cifar10 --out runs/bf16
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

from scipy import stats

from resnetlab.config import DataConfig, Precision, RunConfig
from resnetlab.models.zoo import model_config
from resnetlab.training.recipes import recipe
from resnetlab.training.runtime_options import RuntimeOptions
from resnetlab.training.signal_handling import StopSignal
from resnetlab.training.trainer import fit

ERRORS = ("train_error_pct", "val_error_pct", "test_error_pct")


def main() -> int:
    """Make the runs that are missing and compare; return 1 where the interval of a difference does not hold zero."""
    parser = argparse.ArgumentParser(description="compare bf16 with fp32 over seeds")
    parser.add_argument("--data", default="../shared/data/cifar10", help="CIFAR-10 as --data of resnetlab train")
    parser.add_argument("--network", default="resnet20", help="which network")
    parser.add_argument("--epochs", type=int, default=1, help="length of each run; the schedule goes with it")
    parser.add_argument("--seeds", type=int, default=3, help="repetitions")
    parser.add_argument("--out", type=Path, default=Path("runs/bf16"), help="folder for the runs")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    results: dict[Precision, list[dict]] = {"fp32": [], "bf16": []}
    for seed in range(options.seeds):
        for precision, done in results.items():
            config = RunConfig(
                model_config(options.network),
                DataConfig(options.data),
                recipe("cifar-paper", epochs=options.epochs),
                seed,
                precision=precision,
                layout="channels_last",
                compile="off",
            )
            with StopSignal() as interruption:
                out = options.out / f"{options.network}-{precision}-seed{seed}"
                done.append(fit(config, out, session=RuntimeOptions(resume=True), interruption=interruption).result)
            if not options.json:
                errors = "  ".join(f"{name.split('_')[0]} {done[-1][name]:6.2f} %" for name in ERRORS)
                print(f"{precision} seed {seed}: {errors}  {done[-1]['images_per_s']:,.0f} images/s", flush=True)
    compared = {
        name: compare([r[name] for r in results["fp32"]], [r[name] for r in results["bf16"]]) for name in ERRORS
    }
    if options.json:
        print(json.dumps({"runs": results, "compared": compared}))
    else:
        for name, row in compared.items():
            print(
                f"{name}: fp32 {row['fp32'][0]:.2f} ± {row['fp32'][1]:.2f}, bf16 {row['bf16'][0]:.2f} ± "
                f"{row['bf16'][1]:.2f}, difference {row['difference']:+.2f}, 95 % interval {row['interval'][0]:+.2f} "
                f"to {row['interval'][1]:+.2f}"
            )
    return int(not all(row["interval"][0] <= 0 <= row["interval"][1] for row in compared.values()))


def compare(fp32: list[float], bf16: list[float]) -> dict:
    """Return mean and standard deviation of each side, and the mean paired difference with its 95 % interval."""
    differences = [b - a for a, b in zip(fp32, bf16, strict=True)]
    mean, spread = statistics.mean(differences), statistics.stdev(differences)
    half = float(stats.t.ppf(0.975, len(differences) - 1)) * spread / len(differences) ** 0.5
    return {
        "fp32": (statistics.mean(fp32), statistics.stdev(fp32)),
        "bf16": (statistics.mean(bf16), statistics.stdev(bf16)),
        "difference": mean,
        "interval": (mean - half, mean + half),
    }


if __name__ == "__main__":
    sys.exit(main())
