"""A kill at any system call of the writer leaves a checkpoint that loads: the one before, or the new one."""

import contextlib
import errno
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from resnetlab.training.run_files.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint

CALLS = ("mkdir", "open", "write", "fsync", "close", "rename", "replace", "unlink", "rmdir")


def checkpoint(step):
    tensors = {"model.weight": torch.full((7, 3), float(step)), "momentum.weight": torch.arange(5.0) + step}
    return Checkpoint({"run": {"step": step, "loss": 0.1 + step}}, tensors)


def step_of(folder):
    loaded = load_checkpoint(folder)
    return None if loaded is None else loaded.state["run"]["step"]


def test_it_comes_back_to_the_last_bit(tmp_path):
    there = Checkpoint(
        {"floats": [0.1, 1e-300, 2 / 3], "none": None},
        {"x": torch.rand(4, 3, 3, 3).contiguous(memory_format=torch.channels_last), "n": torch.tensor(7)},
    )
    save_checkpoint(tmp_path / "c", there)
    back = load_checkpoint(tmp_path / "c")
    assert back is not None
    assert back.state == there.state
    assert all(torch.equal(back.tensors[name], tensor) for name, tensor in there.tensors.items())
    assert back.tensors["n"].dtype == torch.int64


def test_only_the_newest_stays(tmp_path):
    assert load_checkpoint(tmp_path) is None
    for step in range(1, 5):
        save_checkpoint(tmp_path / "c", checkpoint(step))
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["save-000004"]
    assert step_of(tmp_path / "c") == 4


def killed_writer(folder, die_at, *, half):
    """Save step 2 in a child that is killed at its `die_at`-th system call; return whether it came to its end."""
    pid = os.fork()
    if pid == 0:
        count = 0

        def watched(name):
            real = getattr(os, name)

            def call(*arguments, **options):
                nonlocal count
                count += 1
                if count == die_at:
                    if half and name == "write":
                        real(arguments[0], arguments[1][: len(arguments[1]) // 2])
                    elif half:
                        with contextlib.suppress(OSError):  # a folder that is there already
                            real(*arguments, **options)
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **options)

            setattr(os, name, call)

        for name in CALLS:
            watched(name)
        save_checkpoint(folder, checkpoint(2))
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    return not os.WIFSIGNALED(status)


@pytest.mark.slow
@pytest.mark.parametrize("half", [False, True], ids=["before the call", "after it, or in the middle of a write"])
def test_a_kill_at_every_system_call(tmp_path, half):
    steps, die_at, ended = [], 0, False
    while not ended:
        die_at += 1
        folder = tmp_path / str(die_at)
        save_checkpoint(folder, checkpoint(1))
        ended = killed_writer(folder, die_at, half=half)
        steps.append(step_of(folder))
        save_checkpoint(folder, checkpoint(3))  # what the kill left does not get in the way
        assert step_of(folder) == 3
        assert [path.name for path in folder.iterdir() if not path.name.startswith("save-")] == []
    assert die_at > 20  # mkdir, three files of open, write, fsync and close, two folders, rename, and clearing up
    assert steps == sorted(steps)  # the old one up to some call, the new one from there on
    assert set(steps) == {1, 2}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_a_kill_at_every_system_call_as_the_kernel_sees_them(tmp_path):
    """The same from outside: strace kills the writer at its n-th write, fsync, rename, mkdir, unlink …"""
    code = (
        "import os, sys, torch; from pathlib import Path\n"
        "from resnetlab.training.run_files.checkpoint import Checkpoint, save_checkpoint\n"
        "there = Checkpoint({'run': {'step': 2}}, {'x': torch.ones(3)}); os.umask(0o22)\n"
        "for folder in sys.argv[1:]:\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        save_checkpoint(Path(folder), there); os._exit(0)\n"
        "    os.waitpid(pid, 0)\n"
    )

    def killed_at(call: str, number: int) -> tuple[str, int | None]:
        folder = tmp_path / f"{call}{number}"
        save_checkpoint(folder, checkpoint(1))
        subprocess.run(
            [
                "strace",
                "-f",
                "-o",
                "/dev/null",
                "-e",
                f"trace={call}",
                "-e",
                f"inject={call}:signal=KILL:when={number}",
                sys.executable,
                "-c",
                code,
                str(folder),
            ],
            check=False,
            capture_output=True,
            timeout=60,
        )
        return call, step_of(folder)

    calls = {"mkdir": 1, "write": 3, "fsync": 5, "rename": 1, "unlinkat": 4}
    kills = [(call, number) for call, times in calls.items() for number in range(1, times + 1)]
    with ThreadPoolExecutor(2) as pool:  # nearly all of it is PyTorch being loaded under strace
        found = set(pool.map(lambda kill: killed_at(*kill), kills))
    assert found == {("mkdir", 1), ("write", 1), ("fsync", 1), ("fsync", 2), ("rename", 1), ("unlinkat", 2)}


@pytest.mark.parametrize("name", ["state.json", "tensors.safetensors", "manifest.json"])
def test_a_damaged_one_is_not_believed(tmp_path, name):
    save_checkpoint(tmp_path / "c", checkpoint(1))
    shutil.copytree(tmp_path / "c" / "save-000001", tmp_path / "c" / "save-000002")
    damaged = tmp_path / "c" / "save-000002" / name
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    assert step_of(tmp_path / "c") == 1  # the whole one before it is taken
    shutil.rmtree(tmp_path / "c" / "save-000001")
    with pytest.raises(CheckpointError, match="no save there is whole"):
        load_checkpoint(tmp_path / "c")


def test_the_manifest_names_every_file(tmp_path):
    save_checkpoint(tmp_path / "c", checkpoint(1))
    folder = tmp_path / "c" / "save-000001"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["files"]) == {path.name for path in folder.iterdir()} - {"manifest.json"}
    assert all((folder / name).stat().st_size == entry["bytes"] for name, entry in manifest["files"].items())


def test_a_full_disk_leaves_the_old_one_and_nothing_else(tmp_path):
    save_checkpoint(tmp_path / "c", checkpoint(1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))  # the kernel refuses to write further: EFBIG
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            save_checkpoint(tmp_path / "c", checkpoint(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["save-000001"]
    assert step_of(tmp_path / "c") == 1


CRAFTED = {
    "left over": None,
    "nested": "[" * 100_000,
    "a list": "[]",
    "a number": "7",
    "text": "not JSON",
    "files a list": json.dumps({"format": 1, "files": ["state.json", "tensors.safetensors"]}),
    "files a number": json.dumps({"format": 1, "files": 3}),
    "no files": json.dumps({"format": 1, "files": {}}),
    "entries null": json.dumps({"format": 1, "files": {"state.json": None, "tensors.safetensors": None}}),
    "outside": json.dumps({"format": 1, "files": {"../../secret": {"bytes": 1, "sha256": ""}}}),
    "a huge number": '{"format": 1' + "0" * 5000 + "}",
    "another format": json.dumps({"format": [1]}),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_manifest_falls_back_with_one_line(tmp_path, caplog, name):
    """A manifest alone is what a half-copied folder has; the older save is used, and without one it is an error."""
    save_checkpoint(tmp_path / "c", checkpoint(1))
    newer = tmp_path / "c" / "save-000009"
    newer.mkdir()
    content = CRAFTED[name] or (tmp_path / "c" / "save-000001" / "manifest.json").read_text()
    (newer / "manifest.json").write_text(content)
    assert step_of(tmp_path / "c") == 1
    (line,) = caplog.messages
    assert "save-000009" in line
    assert line.endswith("continuing from the older save-000001")
    assert "\n" not in line
    assert len(line) < 500
    shutil.rmtree(tmp_path / "c" / "save-000001")
    with pytest.raises(CheckpointError, match=r"no save there is whole .*start again with --fresh") as caught:
        load_checkpoint(tmp_path / "c")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"[]", b"3", b"\xff"])
def test_a_crafted_state_with_the_right_checksum_falls_back(tmp_path, caplog, content):
    save_checkpoint(tmp_path / "c", checkpoint(1))
    shutil.copytree(tmp_path / "c" / "save-000001", tmp_path / "c" / "save-000002")
    for name in ("state.json", "tensors.safetensors"):
        manifest = json.loads((tmp_path / "c" / "save-000002" / "manifest.json").read_text())
        manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        shutil.copytree(tmp_path / "c" / "save-000001", tmp_path / "c" / "save-000002", dirs_exist_ok=True)
        (tmp_path / "c" / "save-000002" / name).write_bytes(content)
        (tmp_path / "c" / "save-000002" / "manifest.json").write_text(json.dumps(manifest))
        assert step_of(tmp_path / "c") == 1
    assert len(caplog.messages) == 2


def test_each_flipped_bit_is_noticed(tmp_path, caplog):
    save_checkpoint(tmp_path / "c", checkpoint(1))
    shutil.copytree(tmp_path / "c" / "save-000001", tmp_path / "c" / "save-000002")
    rng = random.Random(0)
    files = [path for path in (tmp_path / "c" / "save-000002").iterdir() if path.name != "manifest.json"]
    for _ in range(100):
        path = rng.choice(files)
        data = path.read_bytes()
        changed = bytearray(data)
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        caplog.clear()
        assert step_of(tmp_path / "c") == 1
        assert len(caplog.messages) == 1
        path.write_bytes(data)
