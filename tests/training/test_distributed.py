"""Processes that torchrun started: they leave nothing behind."""

import subprocess
import sys

import pytest

LEFT = """
from pathlib import Path
names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
assert not [name for name in names if "gloo" in name], names
"""
LEAVES = f"""
from resnetlab.training.distributed import joined

with joined() as world:
    import torch._dynamo  # as an evaluation may, by one way or another
    import torch.distributed.nn.functional
    assert world.gather(world.rank) == [0, 1]
{LEFT}
"""
IS_STOPPED = f"""
import torch
from resnetlab.models.zoo import build_model
from resnetlab.training.distributed import joined, shared_network
from resnetlab.training.interrupt import InterruptedRunError

def train(world):
    network = shared_network(build_model("resnet8"), world)
    network(torch.zeros(4, 3, 32, 32)).sum().backward()
    raise InterruptedRunError(15)

try:
    with joined() as world:
        train(world)
except InterruptedRunError:  # whose traceback knows the network, and the network the group
    stopped = True
    {LEFT.replace(chr(10), chr(10) + "    ")}
assert stopped
"""


@pytest.mark.slow
@pytest.mark.parametrize("script", [LEAVES, IS_STOPPED], ids=["leaves", "is_stopped"])
def test_no_thread_of_the_group_outlives_it(tmp_path, script):
    """A thread that does would sometimes end the process with SIGABRT, or hang it, as seen (docs/log.md)."""
    path = tmp_path / "leaves.py"
    path.write_text(script)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", path],
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
