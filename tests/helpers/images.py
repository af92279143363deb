"""Random images, and small data sets of them on disk."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from torch import Tensor

from resnetlab.data.dataset import Split


def random_images(count: int, side: int = 8, seed: int = 0) -> np.ndarray:
    """Return random colour images, uint8 (count, side, side, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def encode(image: np.ndarray, kind: str = "PNG") -> bytes:
    """Return an encoded image; WebP is lossless."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return file.getvalue()


def resident_images(split: Split) -> Tensor:
    """Return the images of a split that must be resident."""
    assert isinstance(split.images, Tensor)
    return split.images


def write_tree(root: Path, layout: Mapping[str, int], side: int = 8) -> Path:
    """Write random images into a folder tree; `layout` has the number of images for each folder."""
    images = iter(random_images(sum(layout.values()), side))
    for folder, count in layout.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (root / folder / f"{number:03}.png").write_bytes(encode(next(images)))
    return root


def write_parquet(
    path: Path,
    images: Sequence[object],
    labels: Sequence[object],
    classes: Sequence[str] | None = None,
    *,
    image: str = "image",
    label: str = "label",
) -> Path:
    """Write a parquet file in the format of Hugging Face; bytes become {bytes, path}."""
    cells = [{"bytes": item, "path": None} if isinstance(item, bytes) else item for item in images]
    table = pa.table({image: cells, label: list(labels), "caption": ["a caption"] * len(cells)})
    if classes is not None:
        features = {image: {"_type": "Image"}, label: {"_type": "ClassLabel", "names": list(classes)}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path
