"""Train on the same images from three containers, and show that the records are the same.

CIFAR-10 comes as parquet; from its images this makes a folder tree of PNG files and the authors' binary layout, in
other orders, trains on each with `resnetlab train`, and compares the records line by line: everything but times and the
data set's address must be equal, to the last bit.

    python benchmarks/same_record.py --parquet ../shared/data/cifar10
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
from PIL import Image

from resnetlab.training.compare_runs import without_times
from resnetlab.training.record import read_record

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

Pictures = list[tuple[np.ndarray, int]]
"""Images, uint8 (32, 32, 3), and labels."""


def main() -> int:
    """Make the containers, train on each, compare; return 1 where a record differs."""
    parser = argparse.ArgumentParser(description="the same images from three containers give the same record")
    parser.add_argument("--parquet", type=Path, required=True, help="CIFAR-10 in Hugging Face layout")
    parser.add_argument("--images", type=int, help="use so many training images, and a fifth of that for testing")
    parser.add_argument("train", nargs="*", help="options of resnetlab train, after --")
    options = parser.parse_args()
    words = options.train or ["--model", "resnet20", "--recipe", "cifar-paper", "--epochs", "1"]
    with tempfile.TemporaryDirectory() as folder:
        containers = make(options.parquet, Path(folder), options.images)
        records = {name: train(data, Path(folder, f"run-{name}"), words) for name, data in containers.items()}
    first, *others = records
    for name in others:
        pairs = enumerate(zip(records[first], records[name], strict=True), start=1)
        lines = [number for number, (one, other) in pairs if one != other]
        print(f"{first} and {name}: {f'lines {lines} differ' if lines else f'all {len(records[name])} lines equal'}")
    return int(any(records[name] != records[first] for name in others))


def make(parquet: Path, folder: Path, num_images: int | None) -> dict[str, list[str]]:
    """Write the images in three layouts; return the options of `train` that open each."""
    splits = {
        "train": pictures(parquet, "train", num_images),
        "test": pictures(parquet, "test", num_images and num_images // 5),
    }
    chance = random.Random(0)
    for name, content in splits.items():
        write_parquet(folder / "parquet" / f"{name}-00000-of-00001.parquet", content)
        for index, (image, label) in enumerate(content):
            path = folder / "tree" / name / CLASSES[label] / f"{chance.randrange(10**9):09d}-{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    binary = folder / "binary" / "cifar-10-batches-bin"
    binary.mkdir(parents=True)
    (binary / "batches.meta.txt").write_text("\n".join(CLASSES) + "\n")
    shuffled = splits["train"].copy()
    chance.shuffle(shuffled)
    for number in range(5):
        (binary / f"data_batch_{number + 1}.bin").write_bytes(records_of(shuffled[number::5]))
    (binary / "test_batch.bin").write_bytes(records_of(splits["test"]))
    return {
        "parquet": ["--data", str(folder / "parquet")],
        "tree": ["--data", str(folder / "tree")],
        "binary": ["--data", "cifar10", "--data-root", str(folder / "binary")],
    }


def pictures(parquet: Path, split: str, count: int | None) -> Pictures:
    """Read the images of one split, the first `count` of them."""
    table = pyarrow.parquet.read_table(next(parquet.glob(f"{split}-*")), columns=["img", "label"]).slice(0, count)
    encoded = (row["bytes"] for row in table["img"].to_pylist())
    images = [np.asarray(Image.open(BytesIO(data)).convert("RGB")) for data in encoded]
    return list(zip(images, table["label"].to_pylist(), strict=True))


def write_parquet(path: Path, content: Pictures) -> None:
    """Write images as PNG in Hugging Face layout."""
    features = {"img": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(CLASSES)}}
    rows = [{"bytes": png(image), "path": None} for image, _ in content]
    schema = pyarrow.schema(
        [
            ("img", pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])),
            ("label", pyarrow.int64()),
        ],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = [label for _, label in content]
    pyarrow.parquet.write_table(pyarrow.table({"img": rows, "label": labels}, schema=schema), path)


def png(image: np.ndarray) -> bytes:
    """Encode an image without loss."""
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def records_of(content: Pictures) -> bytes:
    """Return the authors' binary records: a byte for the label, then red, green and blue, row by row."""
    return b"".join(bytes([label]) + image.transpose(2, 0, 1).tobytes() for image, label in content)


def train(data: list[str], out: Path, words: list[str]) -> list[Any]:
    """Train by the command line; return the record without times and the data set's address."""
    command = [sys.executable, "-m", "resnetlab", "train", *data, *words, "--out", str(out)]
    subprocess.run(command, check=True)
    lines = without_times(read_record(out / "record.jsonl"))
    lines = [line for line in lines if "are published" not in line.get("message", "")]  # binary, with --images
    del lines[0]["config"]["data"]["name"], lines[0]["config"]["data"]["root"], lines[0]["data"]["name"]
    return lines


if __name__ == "__main__":
    sys.exit(main())
