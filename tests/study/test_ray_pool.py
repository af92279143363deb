"""A study on a real Ray cluster of two nodes on the loopback, one of which is killed in the middle."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import resnetlab

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

RAY = Path(sys.executable).with_name("ray")
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
GRID = ("--depths", "8", "14", "--seeds", "2", "--epochs", "6")


def start(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [RAY, "start", "--block", "--num-cpus", "1", "--node-ip-address", "127.0.0.1", "--disable-usage-stats", *words],
        start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, **TOKEN},
    )  # fmt: skip


def kill(node: subprocess.Popen[bytes]) -> None:
    os.killpg(node.pid, signal.SIGKILL)
    node.wait()


@pytest.fixture
def cluster():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    nodes = [start("--head", "--port", str(port), "--include-dashboard", "false")]
    time.sleep(5)
    nodes.append(start("--address", address))
    time.sleep(5)
    yield address, nodes
    for node in nodes:
        if node.poll() is None:
            kill(node)


def test_a_node_is_killed_in_the_middle(cluster, tmp_path):
    address, (_, second) = cluster
    out = tmp_path / "study"
    command = [
        sys.executable,
        "-m",
        "resnetlab",
        "study",
        *GRID,
        "--executor",
        "ray",
        "--address",
        address,
        "--out",
        out,
    ]
    study = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **TOKEN}
    )
    deadline = time.monotonic() + 120
    while len(list(out.glob("runs/*/record.jsonl"))) < 2:
        assert study.poll() is None, study.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(2)
    kill(second)
    said, problems = study.communicate(timeout=250)
    assert study.returncode == 0, problems
    assert "failed:" not in said
    results = json.loads((out / "results.json").read_text())
    assert [row["status"] for row in results["runs"]] == ["done"] * 10
    assert (out / "report.html").stat().st_size > 100_000

    alone = resnetlab("study", *GRID, "--out", tmp_path / "alone", timeout=250)
    assert alone.returncode == 0, alone.stderr
    errors = {Path(row["directory"]).name: row["train_error_pct"] for row in results["runs"]}
    local = json.loads((tmp_path / "alone" / "results.json").read_text())["runs"]
    assert {Path(row["directory"]).name: row["train_error_pct"] for row in local} == errors


def test_no_cluster(tmp_path):
    done = resnetlab("study", *GRID, "--executor", "ray", "--address", "127.0.0.1:9", "--out", tmp_path / "study",
                     RAY_GCS_RPC_TIMEOUT_S="5", timeout=120)  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("resnetlab: no Ray cluster answers at 127.0.0.1:9")
    assert done.stderr.count("\n") == 1
