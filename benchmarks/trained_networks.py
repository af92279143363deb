"""Train a ResNet-18 and a ResNet-50 at 224 pixels for benchmarks that compare predictions.

They are trained on the ten classes of Imagenette, first at small image sizes and then at full size. With random weights
the most probable class would be arbitrary, and no two runtimes would have to agree. Each stage is a run directory
and is continued after an interruption. Existing networks stay unchanged.

    python benchmarks/trained_networks.py --data IMAGENETTE64 --out networks
"""

import argparse
import dataclasses
import shutil
from pathlib import Path

from benchmark_data import add_data_argument
from resnetlab.config import DataConfig, Recipe, RunConfig
from resnetlab.models.model_card import MODEL_FILE
from resnetlab.models.zoo import model_config
from resnetlab.training.fit import fit
from resnetlab.training.runtime_options import RuntimeOptions
from resnetlab.training.signal_handling import StopSignal

NAMES = ("resnet18", "resnet50")
STAGES: dict[str, dict[int, dict]] = {
    "resnet18": {
        64: {"epochs": 12, "batch_size": 64, "lr": 0.1, "warmup_steps": 100},
        112: {"epochs": 4, "batch_size": 64, "lr": 0.03},
        224: {"steps": 45, "batch_size": 32, "lr": 0.01},
    },
    "resnet50": {
        64: {"epochs": 6, "batch_size": 64, "lr": 0.1, "warmup_steps": 200},
        112: {"steps": 66, "batch_size": 64, "lr": 0.03},
        224: {"steps": 45, "batch_size": 32, "lr": 0.01},
    },
}
"""Training stages by image size in pixels; all of them take about half an hour on two cores."""
FEW_IMAGES = 1440
"""Training images at 224 pixels, one epoch: enough to adapt to the size, which is close to boxes of 112 pixels."""


def main() -> None:
    """Train the missing networks and print their files."""
    parser = argparse.ArgumentParser(description="train the networks that benchmarks use")
    add_data_argument(parser, "--data", "imagenette64", "Imagenette at 64 pixels, parquet files")
    parser.add_argument("--out", type=Path, default=Path("networks"), help="folder for the model files")
    options = parser.parse_args()
    for name in NAMES:
        print(network(name, options.data, options.out))


def network(name: str, data: Path, out: Path) -> Path:
    """Return the model file of a network; train it if the file is missing.

    Raises:
        ConfigError: If the data do not exist.
    """
    file = out / f"{name}.safetensors"
    if file.exists():
        return file
    before = None
    for side, length in STAGES[name].items():
        run = out / "runs" / f"{name}-{side}"
        with StopSignal() as stop_signal:
            result = fit(
                _stage(name, data, side, length, before),
                run,
                options=RuntimeOptions(resume=True),
                stop_signal=stop_signal,
            ).result
        print(
            f"{name} at {side}: validation error {result['val_error_pct']:.1f} %, {result['time_s']:.0f} s", flush=True
        )
        before = run / MODEL_FILE
    assert before is not None
    shutil.copyfile(before, file)
    return file


def _stage(name: str, data: Path, side: int, length: dict, before: Path | None) -> RunConfig:
    recipe = Recipe(
        name=f"imagenette-{side}", schedule="cosine", crop="resized", flip=True, weight_decay=5e-4, **length
    )
    config = DataConfig(str(data), image_size=side)
    if side == max(STAGES[name]):
        config = dataclasses.replace(config, train_images=FEW_IMAGES, resident_mib=256)
    return RunConfig(
        model_config(name, num_classes=10),
        config,
        recipe,
        precision="bf16",
        layout="channels_last",
        compile="off",
        layer_stats_steps=0,
        weights=None if before is None else str(before),
    )


if __name__ == "__main__":
    main()
