"""Two networks that know something, for benchmarks whose answers must mean something: ResNet-18 and ResNet-50 at 224.

They learn the ten classes of Imagenette by our own loop, first small and then at their full size: of random weights
the most probable class is chance, and no two runtimes would have to agree on it. Each stage is a run directory and is
continued where it was stopped; a network that is there already is left alone.

    python benchmarks/trained_networks.py --out networks
"""

import argparse
import dataclasses
import shutil
from pathlib import Path

from resnetlab.config import DataConfig, Recipe, RunConfig
from resnetlab.models.model_card import FILE
from resnetlab.models.zoo import model_config
from resnetlab.training.runtime_options import RuntimeOptions
from resnetlab.training.signal_handling import StopSignal
from resnetlab.training.trainer import fit

DATA = Path(__file__).parents[2] / "shared/data/imagenette64"
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
"""By the side in pixels at which they learn; chosen so that all of it takes about half an hour of two cores."""
FEW_IMAGES = 1440
"""That are learnt at 224, once: enough to get used to the size, which is nearly what boxes of 112 pixels show."""


def main() -> None:
    """Make the networks that are missing and say how they do."""
    parser = argparse.ArgumentParser(description="train the networks that benchmarks use")
    parser.add_argument("--data", type=Path, default=DATA, help="Imagenette at 64 pixels, parquet")
    parser.add_argument("--out", type=Path, default=Path("networks"), help="folder for the model files")
    options = parser.parse_args()
    for name in NAMES:
        print(network(name, options.data, options.out))


def network(name: str, data: Path, out: Path) -> Path:
    """Return the model file of a network, which is made if it is not there.

    Raises:
        ConfigError: where the data are not there.
    """
    file = out / f"{name}.safetensors"
    if file.exists():
        return file
    before = None
    for side, length in STAGES[name].items():
        run = out / "runs" / f"{name}-{side}"
        with StopSignal() as interruption:
            result = fit(
                _stage(name, data, side, length, before),
                run,
                session=RuntimeOptions(resume=True),
                interruption=interruption,
            ).result
        print(
            f"{name} at {side}: validation error {result['val_error_pct']:.1f} %, {result['time_s']:.0f} s", flush=True
        )
        before = run / FILE
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
