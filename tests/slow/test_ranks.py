"""One run in 1, 2 and 4 processes: 200 steps of CIFAR-10, and an evaluation of its model file."""

import subprocess
import sys

import pytest

from conftest import ROOT

CIFAR10 = ROOT.parent / "shared" / "data" / "cifar10"


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.skipif(not CIFAR10.exists(), reason=f"{CIFAR10} is not there")
def test_as_many_processes_as_one_likes():
    """The benchmark exits with 1 where losses, counts or the evaluation's loss are apart."""
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "benchmarks" / "ranks.py",
            "--data",
            CIFAR10,
            "--model",
            "resnet8",
            "--steps",
            "200",
            "--train-images",
            "3200",
            "--batch-size",
            "16",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=1400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "in 1, 2 and 4 processes: counts equal" in done.stdout
