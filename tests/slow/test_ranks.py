"""One run in 1, 2 and 4 processes: 100 steps of some images of CIFAR-10, and an evaluation of its model file."""

import subprocess
import sys

import pytest

from conftest import ROOT

CIFAR10 = ROOT.parent / "shared" / "data" / "cifar10"


@pytest.fixture
def some_images(tmp_path):
    """The first images of each split: fifteen processes read the data set, and seven evaluate its test images."""
    parquet = pytest.importorskip("pyarrow.parquet")
    for split, count in (("train", 1800), ("test", 600)):
        table = parquet.read_table(next(CIFAR10.glob(f"{split}-*")))
        parquet.write_table(table.slice(0, count), tmp_path / f"{split}-00000-of-00001.parquet")
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.skipif(not CIFAR10.exists(), reason=f"{CIFAR10} is not there")
def test_as_many_processes_as_one_likes(some_images):
    """The benchmark exits with 1 where losses, counts or the evaluation's loss are apart."""
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "benchmarks" / "ranks.py",
            "--data",
            some_images,
            "--model",
            "resnet8",
            "--steps",
            "100",
            "--batch-size",
            "16",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=1400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "600 test images, in 1, 2 and 4 processes: counts equal" in done.stdout
