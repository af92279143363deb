"""Compare the speed from JPEG files to training batches with Pillow and per-image transforms.

Both sides use one thread, read the files anew, and produce the same float batches: half of the images mirrored, all
normalised. Two kinds of crops are measured: `scale` (section 3.4, random shorter side; the bounds apply to these) and
`resized` (boxes of 8 to 100 % of the area). The Pillow side decodes each image whole and stacks; ours is the loader.

    python benchmarks/decode_speed.py --photographs FOLDER --pairs 5
    python benchmarks/decode_speed.py --images FOLDER

Without `--images` it creates 200 JPEGs of 500 x 375 pixels and quality 90, typical of photographs. Each is a collage of
six photographs at their own resolution, because an enlarged photograph has fewer details and decodes faster. Prints
each pair and the median ratio for each size; `--json` prints one object. The exit status is 1 if a median is below its
bound; the bounds are for the created images.
"""

import argparse
import json
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmark_data import default_path
from resnetlab.config import Preprocessing, Recipe
from resnetlab.data.dataset import Split
from resnetlab.data.images.decode import read_header
from resnetlab.data.images.encoded import EncodedImages
from resnetlab.data.images.eval_view import EvalView
from resnetlab.data.loader import train_batches
from resnetlab.recipe_config import Crop

BOUNDS = {64: 2.5, 224: 1.5}
"""Minimum speed ratio, by image size in pixels."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WIDTH, HEIGHT, COLUMNS, ROWS = 500, 375, 3, 2


def main() -> int:
    """Run the pairs and print their times; return 1 if a median ratio is below its bound."""
    parser = argparse.ArgumentParser(description="time JPEG files to training batches against Pillow")
    parser.add_argument("--images", type=Path, help="a folder of JPEGs, at any depth, to use unchanged")
    parser.add_argument(
        "--photographs", type=Path, default=default_path("imagenette224-sample"), help="JPEGs for collages"
    )
    parser.add_argument("--crops", nargs="+", default=["scale", "resized"], help="scale (section 3.4), resized")
    parser.add_argument("--pairs", type=int, default=5, help="number of runs of each side")
    parser.add_argument("--batch-size", type=int, default=50, help="batch size")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if not (options.images or options.photographs):
            parser.error("pass --images or --photographs, or set RESNETLAB_DATA")
        files = jpegs(options.images) if options.images else collages(jpegs(options.photographs), Path(folder))
        what = describe(files, "as they are" if options.images else "collages")
        if not options.json:
            print(what)
        crops = {crop: {size: compare(files, size, crop, options) for size in BOUNDS} for crop in options.crops}
    if options.json:
        print(json.dumps({"images": what, "crops": crops}))
    return int(any(result["median_ratio"] < BOUNDS[size] for size, result in crops.get("scale", {}).items()))


def compare(files: list[Path], size: int, crop: Crop, options: argparse.Namespace) -> dict:
    """Time both sides at one size, in turn, after one warm-up run of each."""
    sides = {"resnetlab": ours, "pillow": theirs}
    for side in sides.values():
        seconds(side(files[: 2 * options.batch_size], size, crop, options.batch_size))
    pairs = []
    for index in range(options.pairs):
        order = list(sides) if index % 2 == 0 else list(sides)[::-1]
        pairs.append({name: seconds(sides[name](files, size, crop, options.batch_size)) for name in order})
    ratios = [pair["pillow"] / pair["resnetlab"] for pair in pairs]
    median = statistics.median(ratios)
    if not options.json:
        num_images = len(files) // options.batch_size * options.batch_size
        for pair in pairs:
            print(
                f"{crop} {size:4} px",
                *(f"{name} {1e3 * value / num_images:.2f} ms/image" for name, value in pair.items()),
            )
        print(
            f"{crop} {size:4} px  {median:.2f} times as fast (median of {len(pairs)} pairs), bound {BOUNDS[size]}",
            flush=True,
        )
    return {"pairs_s": pairs, "ratios": ratios, "median_ratio": median, "bound": BOUNDS[size]}


def ours(files: list[Path], size: int, crop: Crop, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Return batches as training reads them; the headers are read when a data set is opened."""
    headers = [read_header(file.read_bytes()) for file in files]
    sides = torch.tensor([(header.height, header.width) for header in headers])
    split = Split(
        EncodedImages(files, [str(file) for file in files], sides, view=EvalView(size, size)),
        torch.arange(len(files)),
    )
    recipe = Recipe(batch_size=batch_size, crop=crop, flip=True)
    return train_batches(split, Preprocessing(size, MEAN, STD), recipe, seed=0, epoch=0)


def theirs(files: list[Path], size: int, crop: Crop, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches by the usual transforms of a Pillow image: crop, flip, convert to a tensor, normalise, stack."""
    rng = random.Random(0)
    order = list(range(len(files)))
    rng.shuffle(order)
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    for start in range(0, len(files) - batch_size + 1, batch_size):
        images = []
        for number in order[start : start + batch_size]:
            with Image.open(files[number]) as file:
                image = file.convert("RGB")
            image = scaled(image, size, rng) if crop == "scale" else resized(image, size, rng)
            if rng.random() < 0.5:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
            images.append(pixels.float().div(255).sub_(mean).div_(std))
        yield torch.stack(images), torch.tensor(order[start : start + batch_size])


def scaled(image: Image.Image, size: int, rng: random.Random) -> Image.Image:
    """Resize to a random shorter side and crop at random (section 3.4)."""
    shorter = rng.uniform(256, 480) * size / 224
    scale = shorter / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    left, top = rng.randint(0, image.width - size), rng.randint(0, image.height - size)
    return image.crop((left, top, left + size, top + size))


def resized(image: Image.Image, size: int, rng: random.Random) -> Image.Image:
    """Crop a box of random area and shape, and resize it."""
    return image.crop(box_of(image, rng)).resize((size, size), Image.Resampling.BILINEAR)


def box_of(image: Image.Image, rng: random.Random) -> tuple[int, int, int, int]:
    """Return a random box as in torchvision: 8 to 100 % of the area, sides 3:4 to 4:3; after ten tries the centre."""
    for _ in range(10):
        area = image.width * image.height * rng.uniform(0.08, 1)
        aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < width <= image.width and 0 < height <= image.height:
            left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
            return left, top, left + width, top + height
    width, height = min(image.width, round(image.height * 4 / 3)), min(image.height, round(image.width * 4 / 3))
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return left, top, left + width, top + height


def collages(photographs: list[Path], folder: Path, count: int = 200) -> list[Path]:
    """Write JPEGs of WIDTH x HEIGHT pixels, each cut from six photographs at their own resolution."""
    rng = random.Random(0)
    files = []
    for number in range(count):
        collage = Image.new("RGB", (WIDTH, HEIGHT))
        for place in range(COLUMNS * ROWS):
            left, top = place % COLUMNS * WIDTH // COLUMNS, place // COLUMNS * HEIGHT // ROWS
            with Image.open(rng.choice(photographs)) as photograph:
                collage.paste(photograph.convert("RGB").crop((20, 20, 20 + WIDTH // 2, 20 + HEIGHT)), (left, top))
        files.append(folder / f"{number:03}.jpg")
        collage.save(files[-1], quality=90)
    return files


def jpegs(folder: Path) -> list[Path]:
    """List the JPEGs of a folder tree."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    return files or sys.exit(f"{folder}: no .jpg or .jpeg files; pass a folder of JPEGs with --images")


def describe(files: list[Path], what: str) -> str:
    """Return number and size of the images in words."""
    headers = [read_header(file.read_bytes()) for file in files]
    width, height = (statistics.median(side) for side in zip(*((h.width, h.height) for h in headers), strict=True))
    kib = statistics.mean(file.stat().st_size for file in files) / 1024
    return f"{len(files)} JPEGs ({what}), {width:g} x {height:g} pixels in the median, {kib:.0f} KiB each on average"


def seconds(batches: Iterator[tuple[Tensor, Tensor]]) -> float:
    """Return the time to read all batches, in seconds."""
    start = time.perf_counter()
    for _ in batches:
        pass
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
