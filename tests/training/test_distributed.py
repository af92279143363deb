"""Processes that torchrun started: they leave nothing behind, add up in one order, and name who is lost."""

import os
import subprocess
import sys

import pytest
import torch.distributed as dist

from resnetlab.config import ConfigError
from resnetlab.data.shards.fetch import RemoteError
from resnetlab.training import distributed
from resnetlab.training.distributed import LostProcessError
from resnetlab.training.run_files.checkpoint_manager import UnsavedError

LEFT = """
from pathlib import Path
names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
assert not [name for name in names if "gloo" in name], names
"""
LEAVES = f"""
from resnetlab.training.distributed import join_process_group

with join_process_group() as process_group:
    import torch._dynamo  # as an evaluation may, by one way or another
    import torch.distributed.nn.functional
    assert process_group.all_gather(process_group.rank) == [0, 1]
{LEFT}
"""
IS_STOPPED = f"""
import torch
from resnetlab.models.zoo import build_model
from resnetlab.training.distributed import join_process_group, wrap_ddp
from resnetlab.training.signal_handling import InterruptedRunError

def train(process_group):
    network = wrap_ddp(build_model("resnet8"), process_group)
    network(torch.zeros(4, 3, 32, 32)).sum().backward()
    raise InterruptedRunError(15)

try:
    with join_process_group() as process_group:
        train(process_group)
except InterruptedRunError:  # whose traceback knows the network, and the network the group
    stopped = True
    {LEFT.replace(chr(10), chr(10) + "    ")}
assert stopped
"""


SETTLED = """
import torch
from resnetlab.models.zoo import build_model
from resnetlab.training.distributed import join_process_group, wrap_ddp

def same(found, wanted):
    return all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))

with join_process_group() as process_group:
    model = build_model("resnet8", generator=torch.Generator().manual_seed(0))
    before = [tensor.clone() for tensor in model.state_dict().values()]
    network = wrap_ddp(model, process_group)
    assert same(model.state_dict().values(), before)
    assert all(parameter.grad is None for parameter in model.parameters())
    images = torch.rand(7, 3, 32, 32, generator=torch.Generator().manual_seed(process_group.rank))
    gradients = []
    for _ in range(3):
        model.zero_grad()
        network(images).square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert same(gradients[0], gradients[1])
    assert same(gradients[0], gradients[2])
"""


@pytest.mark.slow
def test_three_sum_their_first_gradients_as_all_later_ones(tmp_path):
    """To the last bit: else a run that is continued would not be the unbroken one."""
    (tmp_path / "settled.py").write_text(SETTLED)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "3", tmp_path / "settled.py"],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer"), True),
        (RuntimeError("Application timeout caused pair closure"), True),
        (RuntimeError("Timed out waiting 6000ms for recv operation to complete"), True),
        (dist.DistBackendError("NCCL error in: NCCLUtils.cpp:94, remote process exited"), True),
        (UnsavedError("runs-nccl/gloo/transport: the checkpoint cannot be saved (No space left on device)"), False),
        (RemoteError("https://example.org/nccl/x.tar: connection reset by peer"), False),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
    ],
)
def test_only_what_another_process_causes_is_a_loss(error, lost, monkeypatch):
    monkeypatch.setattr(distributed, "CALL_S", 0)
    store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]  # which PyTorch documents
    store.set("here/0", "1")
    with (
        pytest.raises(LostProcessError if lost else type(error)) as caught,
        distributed._name_lost_processes(store, 0, 3, 6),
    ):
        raise error
    if lost:
        assert str(caught.value).startswith("processes 1, 2 of 3 are gone or do not answer; ")
    else:
        assert caught.value is error


def test_the_one_that_is_lost_is_named(monkeypatch):
    monkeypatch.setattr(distributed, "CALL_S", 0)
    store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]  # which PyTorch documents
    store.set("here/2", "1")
    with (
        pytest.raises(LostProcessError, match=r"^process 1 of 3 is gone or does not answer; "),
        distributed._name_lost_processes(store, 0, 3, 6),
    ):
        raise RuntimeError("Application timeout caused pair closure")


def test_half_of_what_torchrun_says_joins_nothing(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="WORLD_SIZE is 2 and RANK is missing"), distributed.join_process_group():
        pass


@pytest.mark.slow
@pytest.mark.parametrize("script", [LEAVES, IS_STOPPED], ids=["leaves", "is_stopped"])
def test_no_thread_of_the_group_outlives_it(tmp_path, script):
    """A thread that does would sometimes end the process with SIGABRT, or hang it, as seen (docs/log.md)."""
    path = tmp_path / "leaves.py"
    path.write_text(script)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", path],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
