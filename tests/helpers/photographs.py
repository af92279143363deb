"""A folder of small images that differ in size, so that they stay encoded."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("ant", "bee", "größe")


def write_photographs(root: Path, train: int = 60, val: int = 12, sides: tuple[int, int] = (24, 40)) -> Path:
    """Write `train` and `val` images, JPEG and PNG, of three classes in turn; return `root`."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            folder = root / split / CLASSES[number % 3]
            folder.mkdir(parents=True, exist_ok=True)
            height, width = rng.integers(*sides, 2)
            image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            kind = "PNG" if number % 4 == 0 else "JPEG"
            Image.fromarray(image).save(folder / f"{number:03}.{kind.lower()}", kind)
    return root
