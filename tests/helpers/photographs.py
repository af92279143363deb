"""A folder of small pictures whose sizes differ, so that they stay encoded; for tests of shards."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("ant", "bee", "größe")


def photographs(root: Path, train: int = 60, val: int = 12, sides: tuple[int, int] = (24, 40)) -> Path:
    """Write so many pictures, JPEG and PNG, of three classes in turn."""
    chance = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            folder = root / split / CLASSES[number % 3]
            folder.mkdir(parents=True, exist_ok=True)
            height, width = chance.integers(*sides, 2)
            picture = chance.integers(0, 256, (height, width, 3), dtype=np.uint8)
            kind = "PNG" if number % 4 == 0 else "JPEG"
            Image.fromarray(picture).save(folder / f"{number:03}.{kind.lower()}", kind)
    return root
