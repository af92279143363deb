"""Train on the same images from three containers and compare the records.

From CIFAR-10 in parquet files this writes a folder tree of PNG files and the authors' binary layout, in other orders.
It trains on each with `resnetlab train` and compares the records line by line. Everything except times and the address
of the data must be equal, to the last bit.

    python benchmarks/same_record.py --parquet CIFAR10
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

from benchmark_data import add_data_argument
from resnetlab.training.run_files.compare_runs import without_times
from resnetlab.training.run_files.record import read_record

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

LabelledImages = list[tuple[np.ndarray, int]]
"""Images, uint8 (32, 32, 3), and labels."""


def main() -> int:
    """Write the containers, train on each, and compare; return 1 if a record differs."""
    parser = argparse.ArgumentParser(description="compare records of the same images from three containers")
    add_data_argument(parser, "--parquet", "cifar10", "CIFAR-10 in the Hugging Face layout")
    parser.add_argument("--images", type=int, help="number of training images; the test split has a fifth of that")
    parser.add_argument("train", nargs="*", help="options for resnetlab train, after --")
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
    """Write the images in three layouts; return the options of `train` for each."""
    splits = {
        "train": read_images(parquet, "train", num_images),
        "test": read_images(parquet, "test", num_images and num_images // 5),
    }
    rng = random.Random(0)
    for name, content in splits.items():
        write_parquet(folder / "parquet" / f"{name}-00000-of-00001.parquet", content)
        for index, (image, label) in enumerate(content):
            path = folder / "tree" / name / CLASSES[label] / f"{rng.randrange(10**9):09d}-{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    binary = folder / "binary" / "cifar-10-batches-bin"
    binary.mkdir(parents=True)
    (binary / "batches.meta.txt").write_text("\n".join(CLASSES) + "\n")
    shuffled = splits["train"].copy()
    rng.shuffle(shuffled)
    for number in range(5):
        (binary / f"data_batch_{number + 1}.bin").write_bytes(records_of(shuffled[number::5]))
    (binary / "test_batch.bin").write_bytes(records_of(splits["test"]))
    return {
        "parquet": ["--data", str(folder / "parquet")],
        "tree": ["--data", str(folder / "tree")],
        "binary": ["--data", "cifar10", "--data-root", str(folder / "binary")],
    }


def read_images(parquet: Path, split: str, count: int | None) -> LabelledImages:
    """Read the images of one split, the first `count` of them."""
    table = pyarrow.parquet.read_table(next(parquet.glob(f"{split}-*")), columns=["img", "label"]).slice(0, count)
    encoded = (row["bytes"] for row in table["img"].to_pylist())
    images = [np.asarray(Image.open(BytesIO(data)).convert("RGB")) for data in encoded]
    return list(zip(images, table["label"].to_pylist(), strict=True))


def write_parquet(path: Path, content: LabelledImages) -> None:
    """Write images as PNG in the Hugging Face layout."""
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
    """Return an image as PNG."""
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def records_of(content: LabelledImages) -> bytes:
    """Return the authors' binary records: one byte for the label, then red, green and blue, row by row."""
    return b"".join(bytes([label]) + image.transpose(2, 0, 1).tobytes() for image, label in content)


def train(data: list[str], out: Path, words: list[str]) -> list[Any]:
    """Train by the command line; return the record without times and the address of the data."""
    command = [sys.executable, "-m", "resnetlab", "train", *data, *words, "--out", str(out)]
    subprocess.run(command, check=True)
    lines = without_times(read_record(out / "record.jsonl"))
    lines = [line for line in lines if "are published" not in line.get("message", "")]  # binary, with --images
    del lines[0]["config"]["data"]["name"], lines[0]["config"]["data"]["root"], lines[0]["data"]["name"]
    return lines


if __name__ == "__main__":
    sys.exit(main())
