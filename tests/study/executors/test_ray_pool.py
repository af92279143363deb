"""Studies on Ray; the slow tests use a real cluster of two nodes on the loopback, one of which is killed midway."""

import json
import multiprocessing
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

from resnetlab.cli.study import Options, check_executor
from resnetlab.config import ConfigError, RunConfig
from resnetlab.models.zoo import model_config
from resnetlab.study.executors import local_pool, ray_pool, ray_task
from resnetlab.study.executors.local_pool import RunEnded, RunProgress, RunStarted, RunTask
from resnetlab.study.executors.ray_pool import run_tasks
from resnetlab.study.executors.ray_task import ProgressActor, run_task
from resnetlab.system.dir_lock import LOCK
from resnetlab.training.recipes import recipe
from resnetlab.training.run_files.compare_runs import run_differences, without_times
from resnetlab.training.run_files.record import read_record

from conftest import TWO_ARMS, resnetlab

pytestmark = pytest.mark.timeout(900)  # a cluster of two nodes, whose processes load PyTorch one by one

RAY = Path(sys.executable).with_name("ray")
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
EPOCHS = 30  # a run outlasts the seconds by which two machines load PyTorch one after the other
GRID = (*TWO_ARMS, "--depths", "8", "14", "--seeds", "1", "--epochs", str(EPOCHS))
SHORT = RunConfig(model_config("resnet8"), recipe=recipe("digits", epochs=1))
BAD = RunConfig(model_config("plain20", norm="none", init_scale=30.0), recipe=recipe("digits", epochs=1), seed=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"address": "auto"}, "for --executor ray"),
        ({"gpus_per_run": 1.0}, "for --executor ray"),
        ({"executor": "ray", "jobs": 2}, "--jobs is for --executor local"),
        ({"executor": "ray", "gpus_per_run": 1.5}, "not 1.5"),
        ({"executor": "ray", "gpus_per_run": -1.0}, "not -1"),
    ],
)
def test_incompatible_options(options, message):
    with pytest.raises(ConfigError, match=message):
        check_executor(Options(**options))


def test_no_tasks_need_no_cluster():
    assert list(run_tasks([], "127.0.0.1:9")) == []


def test_ray_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"needs Ray .*pip install 'resnetlab\[cluster\]'"):
        ray_pool._connect(None)


@pytest.mark.parametrize("address", ["127.0.0.1", "ray://127.0.0.1:10001", ":6379", "host:port"])
def test_invalid_address(address):
    with pytest.raises(ConfigError, match="HOST:PORT"):
        ray_pool._check_address(address)


def test_address_without_a_cluster():
    with pytest.raises(ConfigError, match=r"no Ray cluster answers at 127.0.0.1:9 \(Connection refused\)"):
        ray_pool._check_address("127.0.0.1:9")


def test_resources_that_no_machine_has_are_rejected():
    """Ray would wait for ever. Lost machines do not count, and a task needs its GPUs on one machine."""
    nodes = [
        {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}},
        {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}},
        {"Alive": False, "Resources": {"CPU": 8.0, "GPU": 4.0}},
    ]
    ray = SimpleNamespace(nodes=lambda: nodes)
    ray_pool._check_resources(ray, {"CPU": 1, "GPU": 1})
    with pytest.raises(ConfigError, match="a run asks for 2 GPU, and no machine of the Ray cluster has more than 1"):
        ray_pool._check_resources(ray, {"CPU": 1, "GPU": 2})


def test_machine_that_does_not_see_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_task, "MARKER_TIMEOUT_S", 0.0)
    with pytest.raises(
        ConfigError, match=r"does not see the study's .*; give a folder that all machines share with --out"
    ):
        run_task(
            SHORT,
            tmp_path / "run",
            cwd=tmp_path,
            marker=tmp_path / ".seen-1",
            progress_actor=None,
            task_index=0,
            checkpoint_s=1.0,
        )
    assert list(tmp_path.iterdir()) == []


def test_progress_actor_ignores_an_earlier_attempt():
    """A machine that was considered lost returns: the actor rejects its reports on the run."""
    actor = ProgressActor()
    first = actor.start_attempt(7)
    assert actor.report(7, first, (6, 78, 50.0))
    second = actor.start_attempt(7)
    assert not actor.report(7, first, (12, 78, 50.0))
    assert actor.report(7, second, (6, 78, 50.0))
    assert actor.drain() == [(7, None), (7, (6, 78, 50.0)), (7, None), (7, (6, 78, 50.0))]
    assert actor.drain() == []


@contextmanager
def node(log: Path, *options: str):
    """Start a node of a cluster and wait until it is ready; kill all its processes at the end."""
    command = [RAY, "start", "--block", "--num-cpus", "1", "--node-ip-address", "127.0.0.1", "--disable-usage-stats"]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, *options], start_new_session=True, stdout=file, stderr=file, env={**os.environ, **TOKEN}
        )
    try:
        until(lambda: process.poll() is None and "runtime started" in log.read_text(), 60)
        yield process
    finally:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def until(condition, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("ray") / "head.log"
    with node(log, "--head", "--port", str(port), "--include-dashboard", "false"):
        yield f"127.0.0.1:{port}"


@pytest.fixture
def second(head, tmp_path):
    with node(tmp_path / "second.log", "--address", head) as process:
        yield process


@contextmanager
def study(address: str, out: Path, *options: str):
    command = [sys.executable, "-W", "error", "-m", "resnetlab", "study", *options, "--executor", "ray", "--address"]
    with subprocess.Popen(
        [*command, address, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, **TOKEN, "COLUMNS": "80", "NO_COLOR": "1"},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def running_runs(out: Path, epochs: int) -> set[str]:
    """Return the runs of this length that have finished an epoch and are not half through."""
    texts = {path.parent.name: path.read_text() for path in out.glob("runs/*/record.jsonl")}
    return {name for name, text in texts.items() if 0 < text.count('"kind": "epoch"') < epochs / 2}


def newest_save(out: Path) -> int:
    """Return the number of a run's newest checkpoint, 0 if there is none."""
    return max((int(path.name.partition("-")[2]) for path in out.glob("checkpoint/save-*")), default=0)


def records(out: Path) -> dict[str, list]:
    """Return the records of all runs without times and without the path of the study."""
    return {
        path.parent.name: without_times(
            [json.loads(json.dumps(line).replace(str(out), "OUT")) for line in read_record(path)]
        )
        for path in out.glob("runs/*/record.jsonl")
    }


@pytest.mark.alone
@pytest.mark.slow
def test_killed_node(head, second, tmp_path, without_figures):
    """Its run continues elsewhere; records equal those of the local pool; stdout has only JSON."""
    out = tmp_path / "study"
    with study(head, out, *GRID, "--json") as process:
        until(lambda: len(running_runs(out, EPOCHS)) == 2 or process.poll() is not None, 120)
        kill(second)
        stdout, stderr = process.communicate(timeout=600)
    assert process.returncode == 0, stderr
    assert stderr.count("lost its machine and resumes elsewhere from its last checkpoint\n") == 1
    assert "raylet" not in stderr
    assert json.loads(stdout) == json.loads((out / "results.json").read_text())
    assert [row["status"] for row in json.loads(stdout)["runs"]] == ["done"] * 5
    assert (out / "report.html").stat().st_size > 100_000
    assert not list(out.glob("runs/.seen-*"))
    status, _, stderr = without_figures("study", *GRID, "--out", tmp_path / "local")
    assert status == 0, stderr
    assert records(out) == records(tmp_path / "local")


@pytest.mark.alone
@pytest.mark.slow
def test_lost_run_resumes_from_its_checkpoint(head, second, tmp_path, monkeypatch):
    for name, value in TOKEN.items():
        monkeypatch.setenv(name, value)
    tasks = [
        RunTask(RunConfig(model_config("resnet8"), recipe=recipe("digits", epochs=20), seed=seed), tmp_path / str(seed))
        for seed in (0, 1)
    ]
    steps_of: dict[str, list[int]] = {}
    saves_at_step_12: dict[str, int] = {}
    outcomes, killed = {}, False
    for event in run_tasks(tasks, head, checkpoint_s=0.2):
        name = event.task.out.name
        if isinstance(event, RunStarted):
            steps_of.setdefault(name, []).append(0)
        elif isinstance(event, RunProgress):
            steps_of[name].append(event.step)
            if event.step >= 12:
                saves_at_step_12.setdefault(name, newest_save(event.task.out))
        else:
            outcomes[name] = event.error
        later_saves = [task for task in tasks if newest_save(task.out) > saves_at_step_12.get(task.out.name, 10**6)]
        if not killed and not outcomes and later_saves == tasks:
            kill(second)
            killed = True
    assert killed
    assert outcomes == {"0": None, "1": None}
    (steps,) = [steps for steps in steps_of.values() if steps.count(0) == 2]  # the run that started twice
    again = steps.index(0, 1)
    assert steps[again + 1] > steps[1]  # not from its first step
    local = [RunTask(task.config, tmp_path / "local" / task.out.name) for task in tasks]
    assert not [event.error for event in local_pool.run_tasks(local, 2) if isinstance(event, RunEnded) and event.error]
    assert [run_differences(a.out, b.out) for a, b in zip(tasks, local, strict=True)] == [[], []]


@pytest.mark.alone
@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_command_continues(head, tmp_path):
    command = ("--depths", "8", "--arms", "plain", "--seeds", "1", "--epochs", "10")
    with study(head, tmp_path / "study", *command) as process:
        until(lambda: running_runs(tmp_path / "study", 10) or process.poll() is not None, 120)
        os.killpg(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (130, "")
    assert stdout.endswith("the same command continues\n")
    (run,) = (tmp_path / "study" / "runs").glob("*/checkpoint/save-*")
    with FileLock(run.parents[1] / LOCK, timeout=0):  # no process holds the lock
        pass
    with study(head, tmp_path / "study", *command) as process:
        _, stderr = process.communicate(timeout=400)
    assert (process.returncode, stderr) == (0, "")


@pytest.mark.alone
@pytest.mark.slow
def test_failed_runs_and_a_killed_driver(head, tmp_path, monkeypatch):
    for name, value in TOKEN.items():
        monkeypatch.setenv(name, value)
    tasks = [RunTask(BAD, tmp_path / "bad"), RunTask(SHORT, tmp_path / "good")]
    ended = {event.task.out.name: event.error for event in run_tasks(tasks, head) if isinstance(event, RunEnded)}
    assert ended["good"] is None
    assert "the loss is" in (ended["bad"] or "")

    long = RunTask(RunConfig(model_config("resnet8"), recipe=recipe("digits", epochs=100)), tmp_path / "long")
    with closing(run_tasks([long], head)) as events:
        while not isinstance(next(events), RunProgress):
            pass
        (process,) = multiprocessing.active_children()
        process.kill()
        with pytest.raises(RuntimeError, match="the same command continues"):
            list(events)
    with FileLock(long.out / LOCK, timeout=20):  # its task has ended too
        assert '"kind": "result"' not in (long.out / "record.jsonl").read_text()


@pytest.mark.alone
@pytest.mark.slow
def test_missing_cluster_token_or_gpu(head, tmp_path):
    """Each error is one line with exit status 2 and leaves no files."""
    out = tmp_path / "study"
    for address, token, gpus, message in (
        ("127.0.0.1:9", TOKEN["RAY_AUTH_TOKEN"], "0", "no Ray cluster answers at 127.0.0.1:9 (Connection refused)"),
        (head, secrets.token_hex(32), "0", "it needs its own token"),
        (head, TOKEN["RAY_AUTH_TOKEN"], "1", "asks for 1 GPU"),
    ):
        done = resnetlab(
            *("study", *GRID, "--executor", "ray", "--address", address, "--gpus-per-run", gpus, "--out", out),
            RAY_AUTH_MODE="token",
            RAY_AUTH_TOKEN=token,
            RAY_NUM_REDIS_GET_RETRIES="3",
        )
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
        assert not out.exists()
