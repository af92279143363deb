"""Measure what a published CIFAR-10 network answers for images with embedded colour profiles, applied and ignored.

The first test images are converted from sRGB to each colour space and saved with a profile of that space, so that a
viewer shows the same colours as before. The profiles are written by `icc_profiles.py` from published primaries.

    python benchmarks/color_profiles.py --data CIFAR10 --weights resnet20-12fca82f.th
"""

import argparse
import json
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmark_data import add_data_argument
from icc_profiles import GAMMAS, convert, rgb_profile
from resnetlab.config import ColorProfiles, DataConfig, Preprocessing
from resnetlab.data.images.decode import decode
from resnetlab.data.open_dataset import open_data
from resnetlab.data.transforms import normalise
from resnetlab.models.importing.import_weights import import_weights

PREPROCESSING = Preprocessing(32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""The preprocessing of the published weights (github.com/akamaster/pytorch_resnet_cifar10)."""
FORMATS: dict[str, dict] = {"PNG": {}, "JPEG": {"quality": 100, "subsampling": 0}}
TREATMENTS: tuple[ColorProfiles, ...] = ("ignore", "apply")


def main() -> int:
    """Print a row for each format and space; return 1 if applying profiles changes more answers than ignoring them."""
    parser = argparse.ArgumentParser(description="answers of a network for images with colour profiles")
    add_data_argument(parser, "--data", "cifar10", "CIFAR-10, as for resnetlab train --data")
    parser.add_argument("--weights", type=Path, required=True, help="weights of a ResNet for CIFAR-10")
    parser.add_argument("--images", type=int, default=1000, help="number of test images")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = import_weights(options.weights).model.eval()
    test = open_data(DataConfig(str(options.data))).test
    assert isinstance(test.images, torch.Tensor)
    # The rows of the file: samples are sorted by class. Shorter names have smaller numbers.
    order = sorted(range(len(test)), key=lambda sample: (len(str(test.names[sample])), str(test.names[sample])))
    images = test.images[order[: options.images]].permute(0, 2, 3, 1).numpy()
    labels = test.labels[order[: options.images]].numpy()
    rows, worse = [], False
    for kind, settings in FORMATS.items():
        base = answers(model, [decode(save(image, kind, None, settings)) for image in images])
        rows.append(row(kind, "none", "apply", base, base, labels))
        for space in GAMMAS:
            profile = rgb_profile(space)
            files = [save(convert(image, "sRGB", space), kind, profile, settings) for image in images]
            changed = {}
            for treatment in TREATMENTS:
                found = answers(model, [decode(file, color_profiles=treatment) for file in files])
                rows.append(row(kind, space, treatment, found, base, labels))
                changed[treatment] = rows[-1]["answers_changed"]
            worse |= changed["apply"] > changed["ignore"]
    if options.json:
        print(json.dumps(rows))
    else:
        print(f"{options.weights.name}, {len(images):,} test images of {options.data.name}")
        print("format  profile            colour profiles  answers changed  error")
        for one in rows:
            print(
                f"{one['format']:7} {one['profile']:18} {one['color_profiles']:16} {one['answers_changed']:15,} "
                f"{one['error_pct']:5.1f} %"
            )
    return int(worse)


def save(pixels: np.ndarray, kind: str, profile: bytes | None, settings: dict) -> bytes:
    """Return an image in a format of Pillow, with an embedded profile."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, kind, icc_profile=profile, **settings)
    return file.getvalue()


def answers(model: torch.nn.Module, images: list[np.ndarray]) -> np.ndarray:
    """Return the most probable class of each image (32, 32, 3)."""
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    with torch.no_grad():
        batches = [model(normalise(batch, PREPROCESSING)).argmax(1) for batch in pixels.split(100)]
    return torch.cat(batches).numpy()


def row(kind: str, profile: str, treatment: str, found: np.ndarray, base: np.ndarray, labels: np.ndarray) -> dict:
    """Return one row of the table."""
    return {
        "format": kind,
        "profile": profile,
        "color_profiles": treatment,
        "answers_changed": int((found != base).sum()),
        "error_pct": 100 * float((found != labels).mean()),
    }


if __name__ == "__main__":
    sys.exit(main())
