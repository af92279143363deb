"""Compare the errors after training in bf16 and in fp32, over several seeds of a short CIFAR-10 run.

Prints the errors of each run, mean and standard deviation over the seeds, and the difference with its 95 % interval
(paired Student's t). Runs are stored in --out, and the same command continues an interrupted benchmark.

    python benchmarks/bf16_agreement.py --data CIFAR10 --out runs/bf16
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

from scipy import stats

from benchmark_data import add_data_argument
from resnetlab.config import DataConfig, Precision, RunConfig
from resnetlab.models.zoo import model_config
from resnetlab.training.fit import fit
from resnetlab.training.recipes import recipe
from resnetlab.training.runtime_options import RuntimeOptions
from resnetlab.training.signal_handling import StopSignal

ERRORS = ("train_error_pct", "val_error_pct", "test_error_pct")


def main() -> int:
    """Train the missing runs and compare; return 1 if the interval of a difference excludes zero."""
    parser = argparse.ArgumentParser(description="compare bf16 with fp32 over seeds")
    add_data_argument(parser, "--data", "cifar10", "CIFAR-10, as for resnetlab train --data")
    parser.add_argument("--network", default="resnet20", help="the network")
    parser.add_argument("--epochs", type=int, default=1, help="length of each run; the schedule scales with it")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--out", type=Path, default=Path("runs/bf16"), help="folder for the runs")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    results: dict[Precision, list[dict]] = {"fp32": [], "bf16": []}
    for seed in range(options.seeds):
        for precision, done in results.items():
            config = RunConfig(
                model_config(options.network),
                DataConfig(str(options.data)),
                recipe("cifar-paper", epochs=options.epochs),
                seed,
                precision=precision,
                layout="channels_last",
                compile="off",
            )
            with StopSignal() as stop_signal:
                out = options.out / f"{options.network}-{precision}-seed{seed}"
                done.append(fit(config, out, options=RuntimeOptions(resume=True), stop_signal=stop_signal).result)
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
