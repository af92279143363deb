"""200,000 images are packed and trained on within a memory that the kernel enforces."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnetlab.training.run_files.record import read_record

IMAGES, CLASSES, DIFFERENT = 200_000, 100, 400
PACKING_MIB, TRAINING_MIB = 384, 512
"""Private writable memory (RLIMIT_DATA), of which Python and PyTorch themselves take about 230 and 300 MiB."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder tree of so many files, all but a few hundred of them links: what is listed and read is all the same."""
    root = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng(0)
    (root / "pool").mkdir()
    pool = [root / "pool" / f"{number}.jpg" for number in range(DIFFERENT)]
    for path in pool:
        height, width = rng.integers(10, 17, 2)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    for split, count in (("train", IMAGES), ("val", 1_000)):
        folders = [root / "tree" / split / f"class{number:03}" for number in range(CLASSES)]
        for folder in folders:
            folder.mkdir(parents=True)
        for number in range(count):
            os.link(pool[number % DIFFERENT], folders[number % CLASSES] / f"{number:06}.jpg")
    return root / "tree"


def within(mib: int, *words: str | Path) -> None:
    """Run the command line with so much memory and no more."""
    done = subprocess.run(
        [sys.executable, "-m", "resnetlab", *map(str, words)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (mib << 20, mib << 20)),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.timeout(1800)  # memory is limited here, not time
def test_two_hundred_thousand_images(tree, tmp_path):
    within(PACKING_MIB, "data", "pack", tree, "--out", tmp_path / "shards", "--shard-mib", "64", "--workers", "2")
    within(
        TRAINING_MIB,
        "train",
        "--data",
        tmp_path / "shards",
        "--model",
        "resnet8",
        "--recipe",
        "imagenet-90",
        "--image-size",
        "16",
        "--batch-size",
        "64",
        "--steps",
        "60",
        "--workers",
        "1",
        "--device",
        "cpu",
        "--out",
        tmp_path / "run",
    )
    record = read_record(tmp_path / "run" / "record.jsonl")
    assert record[0]["data"]["num_train"] == IMAGES
    assert record[-1]["status"] == "done"
    (epoch,) = (line for line in record if line["kind"] == "epoch")
    assert 0 <= epoch["data_wait_pct"] <= 100
    assert epoch["worker_images_per_s"] > 100
