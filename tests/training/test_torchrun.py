"""Several processes train one network: the same samples and steps, and what happens to one of them."""

import contextlib
import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.command_server import run_forked
from resnetlab.config import ConfigError, DataConfig, Recipe, RunConfig
from resnetlab.data.loader import train_batches
from resnetlab.data.open_dataset import open_data
from resnetlab.models.model_file import load_model
from resnetlab.models.zoo import model_config
from resnetlab.serialization import to_json
from resnetlab.system.process_group import ProcessGroup
from resnetlab.training.distributed import pick_device
from resnetlab.training.recipes import recipe
from resnetlab.training.run_files.compare_runs import without_times
from resnetlab.training.run_files.record import read_record

from conftest import resnetlab

WORDS = ("train", "--data", "digits", "--model", "resnet8", "--recipe", "digits", "--batch-size", "64", "--epochs", "2")
SYNCED = (*WORDS, "--sync-bn")
FAULTY = Path(__file__).parents[1] / "helpers" / "faulty_rank.py"


def torchrun(processes: int, *words: object, restarts: int = 0, faulty: tuple[str, int, int] | None = None):
    """Run torchrun; its workers are started as a user's are, and its own process is forked where that is possible.

    Runs with restarts are started two at a time, and files cannot take the output where none can grow.
    """
    program = ["-m", "resnetlab"] if faulty is None else [FAULTY, *faulty]
    options = ("--nproc-per-node", processes, "--max-restarts", restarts)
    rendezvous = ("--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0")
    call = [*map(str, [*options, *rendezvous, *program, *words])]
    # It waits so many seconds before it kills a worker that does not answer, of itself 30.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "5"}
    if not restarts and (faulty is None or faulty[0] != "full"):
        return run_forked(call, cwd=None, environment=environment, timeout=250, module="torch.distributed.run")
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *call],
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
        env=environment,
    )


def switch_off(agent: subprocess.Popen) -> None:
    """Kill an agent and what it started: its workers lead process groups of their own, and would go on without it."""
    if agent.poll() is None:
        workers = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
        for process in (agent.pid, *map(int, workers)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
    agent.wait()


def losses(out: Path) -> torch.Tensor:
    return torch.tensor(
        [
            loss
            for line in read_record(out / "record.jsonl")
            if line["kind"] == "epoch"
            for loss in line["curve"]["loss"]
        ]
    )


def timeless_record(out: Path) -> list[dict]:
    """Everything but times, and how many processes there were."""
    lines = [without_times(line) for line in read_record(out / "record.jsonl")]
    return [{key: value for key, value in line.items() if key not in ("machine", "processes")} for line in lines]


def weights(out: Path) -> dict[str, bytes]:
    return {key: tensor.numpy().tobytes() for key, tensor in load_model(out)[0].state_dict().items()}


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_together_the_processes_see_the_batches_of_one(size, parts):
    data = open_data(RunConfig().data)
    way = dataclasses.replace(recipe("digits", batch_size=64), crop_padding=2, flip=True)
    whole = train_batches(data.train, data.preprocessing, way, seed=1, epoch=2)
    own = [
        train_batches(
            data.train,
            data.preprocessing,
            way,
            seed=1,
            epoch=2,
            process_group=ProcessGroup(rank, size),
            micro_batches=parts,
        )
        for rank in range(size)
    ]
    alone = train_batches(data.train, data.preprocessing, way, seed=1, epoch=2, micro_batches=parts)
    for images, labels in whole:
        pieces = []
        for _ in range(parts):  # the same for any number of processes, and so are BN's statistics
            seen, its = next(alone)
            pieces += (shared := [next(batches) for batches in own])
            assert torch.equal(torch.cat([part for part, _ in shared]), seen)
            assert torch.equal(torch.cat([part for _, part in shared]), its)
        assert torch.equal(torch.cat([seen for seen, _ in pieces]), images)
        assert torch.equal(torch.cat([its for _, its in pieces]), labels)
        assert min(len(its) for _, its in pieces) == 64 // (size * parts)
        assert max(len(its) for _, its in pieces) <= 64 // (size * parts) + 1
    assert all(next(batches, None) is None for batches in own)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """What two processes make of it, undisturbed."""
    out = tmp_path_factory.mktemp("unbroken") / "run"
    done = torchrun(2, *SYNCED, "--out", out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_as_one_process_would(unbroken, tmp_path):
    done = resnetlab(*WORDS, "--out", tmp_path / "one", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert torch.allclose(losses(tmp_path / "one"), losses(unbroken), atol=3e-3)
    assert (losses(tmp_path / "one") - losses(unbroken))[:6].abs().max() < 1e-5  # before rounding has grown
    alone, shared = read_record(tmp_path / "one" / "record.jsonl"), read_record(unbroken / "record.jsonl")
    assert [line["kind"] for line in alone] == [line["kind"] for line in shared]
    assert shared[0]["processes"] == 2
    assert shared[0]["images_normalised_together"] == 64
    ours, theirs = load_model(unbroken)[1], load_model(tmp_path / "one")[1]
    assert dataclasses.replace(ours, error={}, provenance={}) == dataclasses.replace(theirs, error={}, provenance={})


@pytest.mark.slow
@pytest.mark.parametrize(("what", "patience"), [("SIGKILL", 60), ("SIGSTOP", 10)])
def test_one_is_lost_and_all_start_again(unbroken, tmp_path, what, patience):
    """From the last checkpoint, to the same end; who was lost stands in the error."""

    def lost(rank: int):
        words = (*SYNCED, "--out", tmp_path / str(rank), "--checkpoint-steps", "5", "--timeout", patience)
        return torchrun(2, *words, *fresh, restarts=1, faulty=(what, rank, 23))

    fresh = ("--fresh",) if what == "SIGKILL" else ()  # it is meant for the first attempt: the second deletes nothing

    with ThreadPoolExecutor(2) as pool:  # they wait for the lost one
        runs = list(pool.map(lost, (0, 1)))
    for rank, done in enumerate(runs):
        assert done.returncode == 0, done.stderr
        assert f"process {rank} of 2 is gone or does not answer" in done.stderr
        assert "resumed  after step 20" in done.stdout
        assert timeless_record(tmp_path / str(rank)) == timeless_record(unbroken)
        assert weights(tmp_path / str(rank)) == weights(unbroken)


@pytest.mark.slow
@pytest.mark.parametrize(("when", "step"), [("SIGTERM", 23), ("late-SIGTERM", 24)])
def test_asked_to_stop_all_save_at_one_step(unbroken, tmp_path, when, step):
    """The next on which they can agree."""
    out = tmp_path / "run"
    done = torchrun(2, *SYNCED, "--out", out, faulty=(when, 1, 23))
    assert done.returncode != 0
    assert "saved in" in done.stdout
    saved = sorted((out / "checkpoint").glob("save-*"))[-1]
    assert json.loads((saved / "state.json").read_text())["run"]["step"] == step
    assert set(re.findall(r"exitcode\s+: (-?\d+)", done.stderr)) <= {"143", "-15"}  # torchrun ends the others
    if when == "SIGTERM":  # another number of processes goes on: same samples, same order
        done = torchrun(3, *SYNCED, "--out", out)
        assert done.returncode == 0, done.stderr
        assert torch.allclose(losses(out), losses(unbroken), atol=3e-3)


@pytest.mark.slow
def test_one_loss_that_is_not_finite_is_skipped_by_all(tmp_path):
    done = torchrun(2, *SYNCED, "--out", tmp_path / "run", "--json", faulty=("nan", 1, 7))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["skipped_steps"] == 1
    assert result["train_error_pct"] < 60


@pytest.mark.slow
def test_a_machine_is_lost_and_the_other_goes_on_alone(tmp_path):
    """Two agents of torchrun, as on two machines (`--nnodes 1:2`); one is killed with all that it started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    out = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nnodes",
        "1:2",
        "--nproc-per-node",
        "1",
        "--max-restarts",
        "2",
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        endpoint,
        "--rdzv-id",
        "lost",
        "--rdzv-conf",
        "last_call_timeout=5,keep_alive_interval=1,keep_alive_max_attempt=3,is_host={}",
        "-m",
        "resnetlab",
        *WORDS,
        "--epochs",
        "20",
        "--sync-bn",
        "--checkpoint-steps",
        "5",
        "--out",
        str(out),
    ]
    agents = []
    for name, is_host in (("first", "1"), ("second", "0")):  # the first has the rendezvous, however slowly it starts
        words = [word.replace("{}", is_host) for word in command]
        with (tmp_path / name).open("w") as output:
            agents.append(
                subprocess.Popen(words, stdout=output, stderr=output, env={**os.environ, "OMP_NUM_THREADS": "1"})
            )
    try:
        deadline = time.monotonic() + 100
        while not any((out / "checkpoint").glob("save-*")):
            assert time.monotonic() < deadline, (tmp_path / "first").read_text()
            time.sleep(0.1)
        switch_off(agents[1])
        assert agents[0].wait(150) == 0, (tmp_path / "first").read_text()
    finally:
        for agent in agents:
            switch_off(agent)
    output = (tmp_path / "first").read_text()
    assert (
        "process 1 of 2 is gone or does not answer" in output or "process 0 of 2 is gone or does not answer" in output
    )
    record = read_record(out / "record.jsonl")
    assert record[0]["processes"] == 2
    assert [line["epoch"] for line in record if line["kind"] == "epoch"] == list(range(1, 21))
    assert record[-1]["train_error_pct"] < 2


@pytest.mark.slow
def test_the_disk_of_the_first_is_full(unbroken, tmp_path):
    """As for a run of one process: training goes on to its end, the last good checkpoint stays, exit status 1."""
    out = tmp_path / "run"
    words = (*SYNCED, "--out", out, "--checkpoint-steps", "5")
    done = torchrun(2, *words, faulty=("full", 0, 23))
    assert done.returncode != 0
    assert "the checkpoint cannot be saved (File too large)" in " ".join(done.stdout.split())
    assert "resnetlab: " in done.stderr
    assert "is gone" not in done.stderr
    saved = sorted((out / "checkpoint").glob("save-*"))[-1]
    assert json.loads((saved / "state.json").read_text())["run"]["step"] == 20
    assert not (out / "model.safetensors").exists()
    done = torchrun(2, *words)  # room again
    assert done.returncode == 0, done.stderr
    assert weights(out) == weights(unbroken)


@pytest.mark.slow
def test_a_bad_image_of_another_process_stands_in_the_record(tmp_path):
    """Each decodes its own part, and the process that decodes a cut image finds it; the first process writes."""
    rng = np.random.default_rng(0)
    for index in range(120):
        place = tmp_path / "pets" / ("cat", "dog")[index % 2] / f"{index}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 99, (20, 24, 3), dtype=np.uint8)).save(place)
        if index >= 110:  # its header is whole
            place.write_bytes(place.read_bytes()[:600])
    config = RunConfig(
        model_config("resnet8"),
        DataConfig(str(tmp_path / "pets"), image_size=16, resident_mib=0, on_bad_image="skip"),
        Recipe(epochs=2, batch_size=40, lr=0.05, crop="resized"),
    )
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(to_json(config)))
    done = torchrun(2, "train", "--resume", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    messages = [line["message"] for line in read_record(tmp_path / "run" / "record.jsonl") if line["kind"] == "warning"]
    named = sorted(int(word) for message in messages for word in re.findall(r"left out: \w+/(\d+)\.png", message))
    assert named == list(range(110, 120))


@pytest.mark.slow
def test_a_mistake_is_told_once(tmp_path):
    """Whether the data show it, the options, or the words; with the exit status of the one that tells it."""
    (tmp_path / "file").write_text("")
    for words, output in (
        (("--grad-accum-steps", "64", "--out", tmp_path / "run"), "with fewer than 2 images at a time"),
        (("--out", tmp_path / "file"), "is a file"),
        (("--epoch", "3"), "did you mean --epochs"),
    ):
        done = torchrun(2, *WORDS, *words)
        assert done.returncode != 0
        assert done.stderr.count(output) == done.stderr.count("resnetlab: ") == 1
        assert "exitcode  : 2" in done.stderr
    assert not (tmp_path / "run" / "record.jsonl").exists()


@pytest.mark.slow
def test_of_many_one_is_lost_and_named_alone(tmp_path):
    """Only its neighbours in the ring notice at once; the record has the words that people read."""
    out = tmp_path / "run"
    done = torchrun(4, *WORDS, "--out", out, "--timeout", "60", faulty=("SIGKILL", 1, 23))
    assert done.returncode != 0
    messages = [line for line in done.stderr.splitlines() if line.startswith("resnetlab: ")]
    assert [line.partition(";")[0] for line in messages] == ["resnetlab: process 1 of 4 is gone or does not answer"] * 3
    assert read_record(out / "record.jsonl")[-1]["error"] == messages[0].removeprefix("resnetlab: ")


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda", 1)
    assert taken == [1, 1]
    assert pick_device("cpu") == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match="finds 2 GPUs; use torchrun --nproc-per-node 2"):
        pick_device("auto")
