"""Small real data sets on disk, for the tests of this room."""

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


def pictures(count: int, side: int = 8, seed: int = 0) -> np.ndarray:
    """Random colour images, uint8 (count, side, side, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def encode(picture: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return file.getvalue()


def resident(split: Split) -> Tensor:
    """The pixels of a split that is to be resident."""
    assert isinstance(split.images, Tensor)
    return split.images


def tree(root: Path, layout: Mapping[str, int], side: int = 8) -> Path:
    """Write as many images into each folder as the layout says."""
    made = iter(pictures(sum(layout.values()), side))
    for folder, count in layout.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (root / folder / f"{number:03}.png").write_bytes(encode(next(made)))
    return root


def parquet(
    path: Path,
    images: Sequence[object],
    labels: Sequence[object],
    classes: Sequence[str] | None = None,
    image: str = "image",
    label: str = "label",
) -> Path:
    """Write a parquet file as Hugging Face does; bytes become {bytes, path}."""
    cells = [{"bytes": item, "path": None} if isinstance(item, bytes) else item for item in images]
    table = pa.table({image: cells, label: list(labels), "caption": ["what one sees"] * len(cells)})
    if classes is not None:
        features = {image: {"_type": "Image"}, label: {"_type": "ClassLabel", "names": list(classes)}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path
