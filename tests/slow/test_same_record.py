"""The same images give the same record from parquet, from a folder tree and from the authors' binary layout."""

import subprocess
import sys

import pytest

from conftest import ROOT

CIFAR10 = ROOT.parent / "shared" / "data" / "cifar10"


@pytest.mark.slow
@pytest.mark.skipif(not CIFAR10.exists(), reason=f"{CIFAR10} is not there")
def test_three_containers_one_record():
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "benchmarks" / "same_record.py",
            "--parquet",
            CIFAR10,
            "--images",
            "600",
            "--",
            "--model",
            "resnet8",
            "--recipe",
            "cifar-paper",
            "--steps",
            "6",
            "--batch-size",
            "64",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == [
        "parquet and tree: all 5 lines equal",
        "parquet and binary: all 5 lines equal",
    ]
