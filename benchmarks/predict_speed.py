"""How near prediction from files comes to what the cores allow: decoding and the network share them, and nothing waits.

Four speeds in images a second, by turns, medians: (a) the network alone on all cores, on pictures decoded beforehand;
(b) decoding alone on all cores; (c) prediction end to end, as `resnetlab predict` does it; (d) 1 / (1/a + 1/b), which
the cores allow if none of them ever waits. And two other ways to share the cores, which (c) is to beat: decoding
threads beside one network whose layers are spread over all cores (`spread`), or over all but one (`apart`).

    python benchmarks/predict_speed.py
    python benchmarks/predict_speed.py --images FOLDER --turns 7 resnet18:224:200

Networks are named MODEL:SIDE:PICTURES; without `--images` the pictures are those of ../shared/data, again and again.
Exits with 1 where (c) is below 90 % of (d). On a busy machine all of them are lower, and the ratios less sure.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch

from resnetlab.config import Preprocessing
from resnetlab.inference.batch_predict import default_batch_size, predict_batches
from resnetlab.inference.inputs import ImageInput, find_inputs
from resnetlab.inference.predictor import Predictor
from resnetlab.models.model_file import ModelCard
from resnetlab.models.zoo import build_model
from resnetlab.system.cores import usable_cores

PICTURES = Path(__file__).parents[2] / "shared/data/imagenette224-sample"
NETWORKS = ["resnet50:224:80", "resnet18:224:240", "resnet20:32:4000"]
BOUND = 0.9


def main() -> int:
    """Measure each network; return 1 where prediction is slower than its bound allows."""
    parser = argparse.ArgumentParser(description="time prediction from files against its parts")
    parser.add_argument("networks", nargs="*", default=NETWORKS, help="MODEL:SIDE:PICTURES")
    parser.add_argument("--images", type=Path, default=PICTURES, help="a folder of pictures, at any depth")
    parser.add_argument("--turns", type=int, default=5, help="how often each side runs")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    files = [one for one in find_inputs([str(options.images)]) if one is not None]
    if not files or files[0].error:
        sys.exit(f"{options.images}: no pictures; name a folder of some with --images")
    found = {}
    for name in options.networks:
        found[name] = measure(name, files, options.turns)
        if not options.json:
            speeds = "  ".join(f"{side} {speed:,.1f}" for side, speed in found[name].items() if side != "c/d")
            print(f"{name}, {usable_cores()} cores, images/s: {speeds}; c is {found[name]['c/d']:.0%} of d", flush=True)
    if options.json:
        print(json.dumps(found))
    return int(any(speeds["c/d"] < BOUND for speeds in found.values()))


def measure(name: str, files: list[ImageInput], turns: int) -> dict[str, float]:
    """Return the median speed of each side, in images a second, and the ratio of (c) to (d)."""
    model, side, count = name.split(":")
    size, cores = int(side), usable_cores()
    network = build_model(model, 10)
    preprocessing = Preprocessing(size, (0.48, 0.46, 0.41), (0.23, 0.22, 0.22), crop_ratio=0.875 if size >= 64 else 1.0)
    predictor = Predictor(network, ModelCard(network.config, tuple("0123456789"), preprocessing))
    pictures = list(islice(cycle(files), int(count)))
    batch = default_batch_size(size)
    batches = [pictures[start : start + batch] for start in range(0, len(pictures), batch)]
    seen = decoded(predictor, batches[0])

    def network_alone() -> None:
        with ThreadPoolExecutor(cores) as pool:
            list(pool.map(lambda some: predictor.judge(seen[: len(some)]), batches))

    def decoding_alone() -> None:
        with ThreadPoolExecutor(cores) as pool:
            list(pool.map(lambda some: decoded(predictor, some), batches))

    def end_to_end() -> None:
        assert sum(1 for _ in predict_batches(predictor, pictures, batch_size=batch, workers=cores)) == len(pictures)

    def beside() -> None:
        with ThreadPoolExecutor(cores) as pool:
            for views in pool.map(lambda some: decoded(predictor, some), batches):
                predictor.judge(views)

    sides: dict[str, tuple[Callable[[], None], int]] = {
        "a": (network_alone, 1),
        "b": (decoding_alone, 1),
        "c": (end_to_end, 1),
        "spread": (beside, cores),
        "apart": (beside, max(1, cores - 1)),
    }
    speeds: dict[str, list[float]] = {key: [] for key in sides}
    for turn in range(-1, turns):  # the first warms up
        for key, (side_of, threads) in sides.items():
            torch.set_num_threads(threads)
            start = time.perf_counter()
            side_of()
            if turn >= 0:
                speeds[key].append(len(pictures) / (time.perf_counter() - start))
    ratios = [c * (1 / a + 1 / b) for a, b, c in zip(speeds["a"], speeds["b"], speeds["c"], strict=True)]
    medians = {key: statistics.median(values) for key, values in speeds.items()}
    return {**medians, "d": 1 / (1 / medians["a"] + 1 / medians["b"]), "c/d": statistics.median(ratios)}


def decoded(predictor: Predictor, pictures: list[ImageInput]) -> np.ndarray:
    """Return what the network sees of some pictures, uint8 (batch, side, side, channels)."""
    return np.stack([predictor.view(one.read()) for one in pictures])


if __name__ == "__main__":
    sys.exit(main())
