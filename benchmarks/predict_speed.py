"""Compare prediction from files with the limit that decoding and the network set on the same cores.

Four speeds in images per second, in turn, medians: (a) the network alone on all cores, on decoded images; (b) decoding
alone on all cores; (c) prediction end to end, as `resnetlab predict` runs it; (d) 1 / (1/a + 1/b), the limit if no core
ever waits. Two other ways to share the cores are measured for comparison: decoding threads beside one network whose
layers use all cores (`spread`), or all but one (`apart`).

    python benchmarks/predict_speed.py --images FOLDER
    python benchmarks/predict_speed.py --images FOLDER --turns 7 resnet18:224:200

Networks are named MODEL:SIDE:IMAGES; the images of the folder are repeated. The exit status is 1 if (c) is below 90 %
of (d). On a busy machine all speeds are lower and the ratios less reliable.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice

import numpy as np
import torch

from benchmark_data import add_data_argument
from resnetlab.config import Preprocessing
from resnetlab.inference.batch_predict import default_batch_size, predict_batches
from resnetlab.inference.inputs import ImageInput, find_inputs
from resnetlab.inference.predictor import Predictor
from resnetlab.models.model_file import ModelCard
from resnetlab.models.zoo import build_model
from resnetlab.system.cores import usable_cores

NETWORKS = ["resnet50:224:80", "resnet18:224:240", "resnet20:32:4000"]
BOUND = 0.9


def main() -> int:
    """Measure each network; return 1 if prediction is slower than its bound."""
    parser = argparse.ArgumentParser(description="compare prediction from files with decoding and the network alone")
    parser.add_argument("networks", nargs="*", default=NETWORKS, help="MODEL:SIDE:IMAGES")
    add_data_argument(parser, "--images", "imagenette224-sample", "a folder of images, at any depth")
    parser.add_argument("--turns", type=int, default=5, help="number of turns of each side")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    files = [one for one in find_inputs([str(options.images)]) if one is not None]
    if not files or files[0].error:
        sys.exit(f"{options.images}: no images; pass a folder of images with --images")
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
    """Return the median speed of each side in images per second, and the ratio of (c) to (d)."""
    model, side, count = name.split(":")
    size, cores = int(side), usable_cores()
    network = build_model(model, 10)
    preprocessing = Preprocessing(size, (0.48, 0.46, 0.41), (0.23, 0.22, 0.22), crop_ratio=0.875 if size >= 64 else 1.0)
    predictor = Predictor(network, ModelCard(network.config, tuple("0123456789"), preprocessing))
    images = list(islice(cycle(files), int(count)))
    batch = default_batch_size(size**2)
    batches = [images[start : start + batch] for start in range(0, len(images), batch)]
    seen = decoded(predictor, batches[0])

    def network_alone() -> None:
        with ThreadPoolExecutor(cores) as pool:
            list(pool.map(lambda some: predictor.predict_probabilities(seen[: len(some)]), batches))

    def decoding_alone() -> None:
        with ThreadPoolExecutor(cores) as pool:
            list(pool.map(lambda some: decoded(predictor, some), batches))

    def end_to_end() -> None:
        assert sum(1 for _ in predict_batches(predictor, images, batch_size=batch, workers=cores)) == len(images)

    def beside() -> None:
        with ThreadPoolExecutor(cores) as pool:
            for views in pool.map(lambda some: decoded(predictor, some), batches):
                predictor.predict_probabilities(views)

    sides: dict[str, tuple[Callable[[], None], int]] = {
        "a": (network_alone, 1),
        "b": (decoding_alone, 1),
        "c": (end_to_end, 1),
        "spread": (beside, cores),
        "apart": (beside, max(1, cores - 1)),
    }
    speeds: dict[str, list[float]] = {key: [] for key in sides}
    for turn in range(-1, turns):  # the first turn is the warm-up
        for key, (side_of, threads) in sides.items():
            torch.set_num_threads(threads)
            start = time.perf_counter()
            side_of()
            if turn >= 0:
                speeds[key].append(len(images) / (time.perf_counter() - start))
    ratios = [c * (1 / a + 1 / b) for a, b, c in zip(speeds["a"], speeds["b"], speeds["c"], strict=True)]
    medians = {key: statistics.median(values) for key, values in speeds.items()}
    return {**medians, "d": 1 / (1 / medians["a"] + 1 / medians["b"]), "c/d": statistics.median(ratios)}


def decoded(predictor: Predictor, images: list[ImageInput]) -> np.ndarray:
    """Return preprocessed images, uint8 (batch, side, side, channels)."""
    return np.stack([predictor.preprocess(one.read()) for one in images])


if __name__ == "__main__":
    sys.exit(main())
