"""Count right, undecided and false decisions of `resnetlab.check_weights`, and of the warning of evaluate and train.

Checks published CIFAR-10 networks (--weights) and 29 small networks that are trained here for seconds under each
alternative; those in --out are used again. The images of the check are test images without their labels. The warning is
tried on images of several kinds: with the right file it must be silent, and with a wrong one it should not.

    python benchmarks/weight_self_check.py --data CIFAR10 --photographs IMAGENETTE64 --weights FOLDER --out runs/check
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark_data import add_data_argument
from resnetlab.config import Preprocessing
from resnetlab.data.dataset import Split
from resnetlab.evaluation.self_check.check_weights import check_network
from resnetlab.evaluation.self_check.quick_check import contradiction
from resnetlab.models.importing.assumptions import AssumptionOverrides
from resnetlab.models.importing.import_weights import import_file_order, import_weights
from resnetlab.models.model_card import ModelCard
from weight_self_check_networks import NORMALISATIONS, PHOTOGRAPHS, SMALL, Spec, load_images, train

NUM_IMAGES = 256
AKAMASTER = Spec(split=True, augmentation="black")
PUBLISHED = {"resnet20-12fca82f": AKAMASTER, "resnet56-4bfd9763": AKAMASTER}
SUBJECTS = {
    "shortcuts": "shortcut",
    "option A's zero channels": "zero_channels",
    "shortcuts halve the map by": "subsampling",
    "stride of bottlenecks": "bottleneck_stride",
    "pool of the stem": "stem_pool",
    "epsilon of BN": "bn_epsilon",
    "mean and deviation": "normalisation",
    "channel order": "channel_order",
}
WARNED = ("resnet20-12fca82f", "plain-imagenet", "A-append-cifar", "bott-v1-A", "B-bgr")
"""The networks with which the warning is tried."""
MISTAKEN = ("CIFAR-10", "Imagenette")
"""The kinds of images on which wrong files are tried."""


def truth(spec: Spec) -> dict[str, str]:
    """Return the right value of each property, in the check's words."""
    asymmetric = len({*NORMALISATIONS[spec.normalisation][0]}) > 1
    return {
        "shortcut": spec.shortcut,
        "zero_channels": "split" if spec.split else "append",
        "subsampling": "average" if spec.average_shortcut else "stride",
        "bottleneck_stride": spec.stride,
        "stem_pool": "average" if spec.average_pool else "max",
        "bn_epsilon": str(spec.epsilon),
        "normalisation": spec.normalisation + (", in reverse order" if spec.bgr and asymmetric else ""),
        "channel_order": "BGR" if spec.bgr else "RGB",
    }


def files(options: argparse.Namespace) -> Iterator[tuple[str, Path, Spec, Path]]:
    """Yield name, file, truth and images of each network; train the missing ones."""
    wanted = options.networks or (*PUBLISHED, *SMALL, *PHOTOGRAPHS)
    for name, spec in PUBLISHED.items():
        if name not in wanted:
            continue
        yield name, options.weights / f"{name}.th", spec, options.data
    options.out.mkdir(parents=True, exist_ok=True)
    sets = ((SMALL, options.data, 8000, 0), (PHOTOGRAPHS, options.photographs, 4000, 50))
    for specs, path, count, offset in sets:
        data = None
        for index, (name, spec) in enumerate(specs.items()):
            file = options.out / f"s{options.seed}-{name}.pt"
            if name not in wanted:
                continue
            if not file.exists():
                data = data or load_images(path, "train", count, seed=1)
                torch.save(train(spec, *data, seed=100 * options.seed + offset + index), file)
            yield name, file, spec, path


def decide(file: Path, spec: Spec, images: Tensor) -> Iterator[tuple[str, str, str]]:
    """Yield property, verdict, and the two best values with their scores."""
    model = import_file_order(file).model
    side = images.shape[-1]
    found = check_network(model.config, model.state_dict(), list(images), image_size=side)
    right = truth(spec)
    for item in found.findings:
        if item.subject not in SUBJECTS:
            continue
        value = right[SUBJECTS[item.subject]]
        verdict = "undecided" if item.decided is None else "right" if item.decided == value else "FALSE"
        best = sorted(item.scores.items(), key=lambda pair: pair[1])[:2]
        yield SUBJECTS[item.subject], verdict, ", ".join(f"{name} {score:.5f}" for name, score in best)


def kinds(images: Tensor, photographs: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield images of several kinds; the first are those of the training."""
    yield "CIFAR-10", images
    small = F.interpolate(photographs.float(), (32, 32), mode="bilinear", antialias=True)
    yield "Imagenette", small.round().byte()
    yield "crops of Imagenette", photographs[:, :, 16:48, 16:48]
    yield "half as bright", (images * 0.5).byte()
    yield "contrast 1.3", ((images.float() - 128) * 1.3 + 128).clamp(0, 255).byte()
    yield "grey", images.float().mean(1, keepdim=True).byte().expand(-1, 3, -1, -1)
    noise = torch.randint(0, 256, tuple(images.shape), generator=torch.Generator().manual_seed(0))
    yield "noise", noise.byte()


def overrides(spec: Spec) -> AssumptionOverrides:
    """Return the right overrides for a file."""
    return AssumptionOverrides(
        shortcut="none" if spec.shortcut == "none" else None,
        zero_channels=None if spec.shortcut != "pad" else "split" if spec.split else "append",
        bottleneck_stride=spec.stride if spec.block == "bottleneck" else None,
        channel_order="bgr" if spec.bgr else None,
    )


def mistakes(spec: Spec) -> Iterator[tuple[str, AssumptionOverrides, str]]:
    """Yield each wrong reading of a file: its name, its overrides, and its normalisation."""
    right = overrides(spec)
    if spec.shortcut == "none":
        yield "plain as residual", replace(right, shortcut=None), spec.normalisation
    if spec.shortcut == "pad":
        yield "residual as plain", replace(right, shortcut="none", zero_channels=None), spec.normalisation
    if spec.split:
        yield "split as appended", replace(right, zero_channels="append"), spec.normalisation
    if spec.block == "bottleneck":
        other: Any = "3x3" if spec.stride == "1x1" else "1x1"
        yield "other stride", replace(right, bottleneck_stride=other), spec.normalisation
    yield "other channel order", replace(right, channel_order="rgb" if spec.bgr else "bgr"), spec.normalisation
    for name in ("ImageNet", "CIFAR-10", "-1 to 1", "0 to 1", "0 to 255"):
        if name != spec.normalisation:
            yield f"mean and deviation of {name}", right, name


def warned(file: Path, spec: Spec, reading: AssumptionOverrides, normalisation: str, images: Tensor) -> bool:
    """Return whether a file that was read in one way gives a warning on images."""
    model = import_weights(file, reading).model
    mean, std = NORMALISATIONS[normalisation]
    preprocessing = Preprocessing(32, mean[::-1], std[::-1]) if spec.bgr else Preprocessing(32, mean, std)
    names = tuple(f"class {index}" for index in range(10))
    card = ModelCard(model.config, names, preprocessing, provenance={"converted_from": {"file": file.name}})
    return contradiction(model, card, Split(images, torch.zeros(len(images), dtype=torch.int64))) is not None


def main() -> int:
    """Print a line for each network and the counts; return 1 after a false decision."""
    parser = argparse.ArgumentParser(description="count the decisions of the self-check of weights")
    add_data_argument(parser, "--data", "cifar10", "CIFAR-10 as parquet files")
    add_data_argument(parser, "--photographs", "imagenette64", "Imagenette at 64 pixels as parquet files")
    add_data_argument(parser, "--weights", "weights", "folder with resnet20-12fca82f.th and resnet56-4bfd9763.th")
    parser.add_argument("--out", type=Path, default=Path("runs/weight-self-check"), help="folder of the networks")
    parser.add_argument("--seed", type=int, default=0, help="seed of the networks")
    parser.add_argument("--networks", nargs="*", help="names of networks; all if not given")
    parser.add_argument("--only", choices=("decisions", "warnings"), help="one part")
    options = parser.parse_args()
    torch.set_num_threads(1)
    small, _ = load_images(options.data, "test", NUM_IMAGES, seed=0)
    large, _ = load_images(options.photographs, "validation", NUM_IMAGES, seed=0)
    counts: Counter[tuple[str, str]] = Counter()
    networks = list(files(options))
    for name, file, spec, path in networks if options.only != "warnings" else ():
        print(name, flush=True)
        for subject, verdict, scores in decide(file, spec, small if path == options.data else large):
            counts[subject, verdict] += 1
            print(f"  {subject:<18} {verdict:<10} {scores}", flush=True)
    for subject in dict.fromkeys(subject for subject, _ in counts):
        right, unsure, false = (counts[subject, verdict] for verdict in ("right", "undecided", "FALSE"))
        print(f"{subject}: right {right}, undecided {unsure}, false {false}")
    for name, file, spec, _ in networks if options.only != "decisions" else ():
        if name not in WARNED:
            continue
        for kind, images in kinds(small, large):
            alarm = "FALSE ALARM" if warned(file, spec, overrides(spec), spec.normalisation, images) else "silent"
            print(f"{name} on {kind}: right file {alarm}", flush=True)
            if kind not in MISTAKEN:
                continue
            caught = {
                what: warned(file, spec, reading, normalisation, images)
                for what, reading, normalisation in mistakes(spec)
            }
            missed = ", ".join(what for what, found in caught.items() if not found) or "none"
            print(f"  wrong files: caught {sum(caught.values())} of {len(caught)}; missed: {missed}", flush=True)
    return int(any(verdict == "FALSE" for _, verdict in counts))


if __name__ == "__main__":
    sys.exit(main())
