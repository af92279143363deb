r"""Compare fine-tuning a CIFAR-10 network on few photographs with training from random weights.

The target is Imagenette at 32 pixels with 20 training images per class, different ones for each seed. The test images
are its whole validation split, evaluated once, at the end of each run. Three runs per seed:

- fine-tuned: `resnetlab train --from`, recipe `finetune` unchanged;
- from scratch by the same recipe, without frozen layers;
- from scratch by a recipe of its own, with five times the steps (docs/log.md describes its selection).

Prints the test errors, mean and standard deviation, and the difference between fine-tuning and the better of the two
others with its 95 % interval (paired Student's t). Runs are stored in --out, and the same command continues an
interrupted benchmark. Without --from, a ResNet-20 is first trained on CIFAR-10 for 1,000 steps, which takes some
minutes. With published weights:

    resnetlab inspect resnet20-12fca82f.th --save runs/cifar20.safetensors --classes cifar10 \
        --mean .485 .456 .406 --std .229 .224 .225 --zero-channels split
    python benchmarks/finetune.py --from runs/cifar20.safetensors --target IMAGENETTE64
"""

import argparse
import dataclasses
import json
import statistics
import sys
from pathlib import Path

from scipy import stats

from benchmark_data import add_data_argument, default_path
from resnetlab.config import DataConfig, Recipe, RunConfig
from resnetlab.models.model_card import read_card
from resnetlab.models.zoo import model_config
from resnetlab.training.fit import fit
from resnetlab.training.recipes import recipe
from resnetlab.training.runtime_options import RuntimeOptions
from resnetlab.training.signal_handling import StopSignal

TUNED = "fine-tuned"
OWN = Recipe(
    name="scratch",
    epochs=100,
    batch_size=16,
    lr=0.03,
    weight_decay=5e-4,
    schedule="cosine",
    warmup_steps=20,
    crop_padding=4,
    flip=True,
)
"""Recipe for random weights: selected like `finetune`, on the same images."""


def main() -> int:
    """Train the missing runs and compare; return 1 unless fine-tuning is better with every seed."""
    parser = argparse.ArgumentParser(description="fine-tuning against training from scratch, on few images")
    parser.add_argument("--source", default=default_path("cifar10"), help="CIFAR-10, as for resnetlab train --data")
    parser.add_argument("--source-steps", type=int, default=1000, help="training steps on CIFAR-10")
    parser.add_argument("--from", dest="weights", type=Path, help="a model file, instead of training on CIFAR-10")
    add_data_argument(parser, "--target", "imagenette64", "Imagenette, parquet files")
    parser.add_argument("--images", type=int, default=200, help="training images over all classes")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--out", type=Path, default=Path("runs/finetune"), help="folder for the runs")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if not (options.weights or options.source):
        parser.error("pass --from or --source, or set RESNETLAB_DATA")
    weights = options.weights or learn_source(options)
    data = DataConfig(str(with_test_split(options.target, options.out)), image_size=32, train_images=options.images)
    results: dict[str, list[dict]] = {}
    for seed in range(options.seeds):
        for arm, config in arms(weights, data, seed).items():
            done = make(config, options.out / f"{arm.replace(' ', '-')}-seed{seed}")
            results.setdefault(arm, []).append(done)
            if not options.json:
                print(
                    f"seed {seed}  {arm:<24} {done['steps']:>5,} steps  train error {done['train_error_pct']:5.1f} %"
                    f"  test error {done['test_error_pct']:5.1f} %  {done['time_s']:.0f} s",
                    flush=True,
                )
    compared = compare({arm: [done["test_error_pct"] for done in some] for arm, some in results.items()})
    if options.json:
        print(json.dumps({"runs": results, "compared": compared}))
    else:
        show(compared)
    return int(max(compared["differences"]) >= 0)


def learn_source(options: argparse.Namespace) -> Path:
    """Train a ResNet-20 on CIFAR-10 by a shortened `cifar-paper`; return its model file."""
    out = options.out / "source"
    short = dataclasses.replace(recipe("cifar-paper"), steps=options.source_steps, normalise="channel")
    make(RunConfig(model_config("resnet20"), DataConfig(str(options.source)), short, precision="bf16"), out)
    return out / "model.safetensors"


def with_test_split(target: Path, out: Path) -> Path:
    """Return a folder in which the validation files are named test, so that nothing is selected on them.

    A tenth of the training images then serves for validation.
    """
    folder = out / target.name
    folder.mkdir(parents=True, exist_ok=True)
    for file in target.resolve().glob("*.parquet"):
        link = folder / file.name.replace("validation", "test")
        if not link.exists():
            link.symlink_to(file)
    return folder


def arms(weights: Path, data: DataConfig, seed: int) -> dict[str, RunConfig]:
    """Return the three runs of a seed; the seed also selects the training images."""
    model, data = read_card(weights).model, dataclasses.replace(data, split_seed=seed)
    tuned = recipe("finetune", model)
    same = dataclasses.replace(tuned, name="scratch", frozen_epochs=0, layer_decay=1.0, freeze_bn=False)
    run = RunConfig(
        model,
        data,
        tuned,
        seed,
        weights=str(weights),
        precision="fp32",
        layout="channels_last",
        compile="off",
        layer_stats_steps=0,
    )
    return {
        TUNED: run,
        "from scratch": dataclasses.replace(run, recipe=same, weights=None),
        "from scratch, its own way": dataclasses.replace(run, recipe=OWN, weights=None),
    }


def make(config: RunConfig, out: Path) -> dict:
    """Train or continue a run; return its result."""
    with StopSignal() as stop_signal:
        return fit(config, out, options=RuntimeOptions(resume=True), stop_signal=stop_signal).result


def compare(errors: dict[str, list[float]]) -> dict:
    """Return mean and deviation of each arm, and the paired difference between fine-tuning and the better other arm."""
    others = {arm: some for arm, some in errors.items() if arm != TUNED}
    better = min(others, key=lambda arm: statistics.mean(others[arm]))
    differences = [tuned - other for tuned, other in zip(errors[TUNED], others[better], strict=True)]
    count = len(differences)
    spread = {arm: statistics.stdev(some) if count > 1 else None for arm, some in errors.items()}
    half = None
    if count > 1:
        half = float(stats.t.ppf(0.975, count - 1)) * statistics.stdev(differences) / count**0.5
    mean = statistics.mean(differences)
    return {
        "errors": {arm: (statistics.mean(some), spread[arm]) for arm, some in errors.items()},
        "better": better,
        "differences": differences,
        "difference": mean,
        "interval": None if half is None else (mean - half, mean + half),
    }


def show(compared: dict) -> None:
    """Print a line per arm and the difference."""
    for arm, (mean, spread) in compared["errors"].items():
        print(f"{arm:<26} test error {mean:.1f}{'' if spread is None else f' ± {spread:.1f}'} %")
    interval = compared["interval"]
    words = "one seed" if interval is None else f"95 % interval {interval[0]:+.1f} to {interval[1]:+.1f}"
    print(f"fine-tuned less {compared['better']}: {compared['difference']:+.1f} points ({words})")


if __name__ == "__main__":
    sys.exit(main())
