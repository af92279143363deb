"""Processes that torchrun started: they leave nothing behind."""

import subprocess
import sys

import pytest

LEAVES = """
from pathlib import Path
from resnetlab.training.distributed import joined

with joined() as world:
    import torch._dynamo  # as an evaluation may, by one way or another
    import torch.distributed.nn.functional
    assert world.gather(world.rank) == [0, 1]
names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
assert not [name for name in names if "gloo" in name], names
"""


@pytest.mark.slow
def test_no_thread_of_the_group_outlives_it(tmp_path):
    """A thread that does would sometimes end the process with SIGABRT, as seen in CI (docs/log.md)."""
    script = tmp_path / "leaves.py"
    script.write_text(LEAVES)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", script],
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
