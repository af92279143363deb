"""`benchmarks/table6.py`: what is trained again, what is packed, and what is reported; no network is trained."""

import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from types import SimpleNamespace

import numpy as np
import pytest

from resnetlab.config import DataConfig, RunConfig
from resnetlab.data.readers.cifar_mnist import read_archive
from resnetlab.models.zoo import model_config
from resnetlab.training.recipes import recipe
from resnetlab.training.runtime_options import RuntimeOptions
from resnetlab.training.trainer import Trainer

from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import table6
import table6_bundle
import table6_pack
import table6_table
from table6_records import Job, read_record, write_record
from table6_speed import StepClock

JOB, OTHER = Job("resnet20", "cifar-paper", "bf16", 0), Job("plain20", "cifar-paper", "bf16", 0)


@pytest.fixture(autouse=True)
def same_handlers():
    """Restore the signal handlers that a pool sets."""
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.fixture
def options(tmp_path):
    made = Namespace(out=tmp_path / "runs", records=tmp_path / "records", parallel=2, device="cpu", data="digits")
    made.__dict__ |= {"data_root": None, "steps": 20, "compile": "off", "networks": ["resnet20", "plain20"]}
    made.__dict__ |= {"recipes": ["cifar-paper"], "precisions": ["bf16"], "seeds": 1}
    for folder in (made.out, made.records):
        folder.mkdir()
    return made


def write(options, job, status, **values):
    record = {**vars(job), "status": status, "step": 64_000, "test_error_pct": 8.75, "error": None, **values}
    (options.records / f"{job.name}.json").write_text(json.dumps(record))
    return record


def make_run(options, job, config="{", **files):
    """Write a run directory, damaged unless a configuration is given."""
    out = options.out / job.name
    (out / "checkpoint").mkdir(parents=True)
    for name, content in {"config.json": config, **files}.items():
        (out / name).write_text(content)
    return out


def command(monkeypatch, code):
    """Let every run be a Python process with this code."""
    start = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda words, **rest: start([sys.executable, "-c", code], **rest))


def test_a_run_whose_record_has_ended_is_not_trained_where_its_folder_is_missing(options, monkeypatch, capsys):
    records = [write(options, JOB, "done"), write(options, OTHER, "diverged")]
    monkeypatch.setattr(table6.Pool, "_start", lambda pool, job: pytest.fail(f"{job.name} is trained"))
    assert table6.train(options, time.monotonic() + 60) == records


@pytest.mark.parametrize("status", ["done", "diverged"])
def test_the_record_of_a_run_that_has_ended_stays(options, status):
    record = write(options, JOB, status)
    make_run(options, JOB)
    assert write_record(JOB, options, has_failed=True) == record
    assert read_record(options.records / f"{JOB.name}.json") == record


def test_runs_are_packed_and_unpacked_on_a_machine_without_them(options, tmp_path, monkeypatch):
    monkeypatch.setattr(table6_pack, "MAX_PART_BYTES", 10_000)
    done = write(options, JOB, "done")
    write(options, OTHER, "unfinished")
    make_run(options, JOB)
    run = make_run(options, OTHER, tensors=os.urandom(8_000).hex())
    (options.out / f"{OTHER.name}.log").write_text("a line")
    (options.records / "speed.json").write_text("{}")
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / "table6-1-of-9.part").write_text("of an earlier part")
    line = table6_pack.pack(parts, options.out, options.records)
    sizes = [path.stat().st_size for path in parts.iterdir()]
    assert f"packed 1 unfinished runs and the records: {len(sizes)} files" in line
    assert len(sizes) >= 2
    assert max(sizes) <= 10_000

    out, records = tmp_path / "fresh", tmp_path / "fresh" / "records"
    records.mkdir(parents=True)
    assert OTHER.name in table6_pack.unpack(parts, out, records)
    assert sorted(path.name for path in out.iterdir()) == sorted([OTHER.name, f"{OTHER.name}.log", "records"])
    assert (out / OTHER.name / "tensors").read_text() == (run / "tensors").read_text()
    assert (out / OTHER.name / "checkpoint").is_dir()
    assert read_record(records / f"{JOB.name}.json") == done
    assert (records / "speed.json").exists()


def test_unpacking_keeps_what_is_there(options, tmp_path):
    write(options, JOB, "unfinished")
    make_run(options, OTHER, tensors="packed")
    table6_pack.pack(tmp_path / "parts", options.out, options.records)
    (options.out / OTHER.name / "tensors").write_text("newer")
    done = write(options, JOB, "done")
    assert "none that is not there already" in table6_pack.unpack(tmp_path / "parts", options.out, options.records)
    assert (options.out / OTHER.name / "tensors").read_text() == "newer"
    assert read_record(options.records / f"{JOB.name}.json") == done


@pytest.mark.parametrize("missing", [1, 2])
def test_a_missing_part_is_named(options, tmp_path, monkeypatch, missing):
    monkeypatch.setattr(table6_pack, "MAX_PART_BYTES", 6_000)
    write(options, JOB, "unfinished")
    table6_pack.pack(tmp_path / "parts", options.out, options.records)
    (tmp_path / "parts" / f"table6-{missing}-of-2.part").unlink()
    with pytest.raises(FileNotFoundError, match=r"has 1 of 2 files table6-\*\.part"):
        table6_pack.unpack(tmp_path / "parts", options.out, options.records)
    with pytest.raises(FileNotFoundError, match="has 0 of the files"):
        table6_pack.unpack(options.out, options.out, options.records)


def run_main(options, monkeypatch, *words):
    """Run the command of a trial, without its measurement."""
    command = ["table6.py", "--steps", "20", "--device", "cpu", "--networks", "resnet20", "--recipes", "cifar-paper"]
    folders = ["--out", str(options.out), "--records", str(options.records), "--no-measurement"]
    monkeypatch.setattr(sys, "argv", [*command, "--precisions", "bf16", *folders, *words])
    return table6.main()


def test_a_part_without_the_files_of_the_one_before_is_a_wrong_call(options, monkeypatch, tmp_path, capsys):
    assert run_main(options, monkeypatch, "--unpack", str(tmp_path)) == 2
    assert capsys.readouterr().err == f"{tmp_path}: has 0 of the files table6-*.part; copy all of them there\n"


def test_what_was_reached_is_packed_whatever_happens(options, monkeypatch, tmp_path, capsys):
    make_run(options, JOB, "{}")
    monkeypatch.setattr(table6, "train", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        run_main(options, monkeypatch, "--pack", str(tmp_path / "parts"))
    assert "packed 1 unfinished runs" in capsys.readouterr().out


def test_the_exit_status_says_whether_the_same_command_helps(options, monkeypatch):
    for status, expected in {
        "done": 0,
        "diverged": 0,
        "unfinished": 3,
        "missing": 3,
        "failed": 1,
        "damaged": 1,
    }.items():
        monkeypatch.setattr(table6, "train", lambda *_, status=status: [write(options, JOB, status)])
        assert run_main(options, monkeypatch) == expected


def test_a_damaged_folder_and_a_damaged_record_are_reported_and_the_others_run(options, monkeypatch, capsys):
    options.networks += ["resnet8"]
    make_run(options, JOB)
    (options.records / f"{OTHER.name}.json").write_text("{")
    command(monkeypatch, "raise SystemExit('no such network')")
    records = table6.train(options, time.monotonic() + 60)
    assert [record["status"] for record in records] == ["damaged", "damaged", "failed"]
    output = capsys.readouterr().out
    assert f"{JOB.name}: damaged after 0 steps: " in output
    assert f"{options.out / JOB.name / 'config.json'}" in output
    assert f"{OTHER.name}.json: cannot be read" in output
    assert "resnet8-cifar-paper-bf16-seed0: failed after 0 steps: no such network" in output


WAITS = "import os, time; print(os.getpgid(0) == os.getpid(), flush=True); time.sleep(60)"
"""Prints whether the process has a group of its own, which the signals of a terminal do not reach."""


def run_until(pool, options, monkeypatch, stop):
    """Run a pool, and call `stop` when both of its processes have printed."""

    def sleep(_seconds, sleep=time.sleep):
        sleep(0.05)
        if all(path.read_text() for path in options.out.glob("*.log")):
            stop()

    monkeypatch.setattr(table6, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    pool.run(time.monotonic() + 60)


def test_an_exception_in_the_pool_stops_the_runs(options, monkeypatch):
    command(monkeypatch, WAITS)
    pool = table6.Pool(options, [JOB, OTHER])
    with pytest.raises(ZeroDivisionError):
        run_until(pool, options, monkeypatch, lambda: 1 // 0)
    assert [process.returncode for process in pool._running.values()] == [-signal.SIGTERM] * 2


def test_ctrl_c_reaches_a_run_once_and_one_that_was_loading_is_missing(options, monkeypatch):
    """The signal of a terminal goes to the whole process group; a run would get it, and SIGTERM a moment later."""
    command(monkeypatch, WAITS)
    pool = table6.Pool(options, [JOB, OTHER])
    run_until(pool, options, monkeypatch, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert [process.returncode for process in pool._running.values()] == [-signal.SIGTERM] * 2
    assert [record["status"] for record in pool.records.values()] == ["missing", "missing"]
    assert [path.read_text() for path in options.out.glob("*.log")] == ["True\n"] * 2


def runs_of(*rows):
    return [
        {
            **vars(JOB),
            "seed": seed,
            "status": status,
            "step": step,
            "test_error_pct": error,
            "protocol_differences": differs,
        }
        for seed, (status, step, error, *differs) in enumerate(rows)
    ]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("done", 64_000, 8.75)], "8.75"),
        ([("done", 64_000, 8.0), ("done", 64_000, 9.0)], "8.50 ± 0.71 (2 of 2)"),
        ([("done", 64_000, 8.0), ("done", 64_000, 9.0), ("diverged", 9, None)], "8.50 ± 0.71 (2 of 3; 1 diverged)"),
        ([("done", 64_000, 8.0), ("failed", 0, None), ("diverged", 9, None)], "8.00 (1 of 3; 1 failed; 1 diverged)"),
        ([("unfinished", 1_200, None)], "unfinished, 1,200 steps"),
        ([("diverged", 1_200, None), ("unfinished", 5, None)], "1 diverged, 1 unfinished, 1,200 steps"),
        ([], "—"),
    ],
)
def test_a_cell_says_how_many_seeds_its_mean_is_of(rows, expected):
    assert table6_table.cell(runs_of(*rows), "resnet20", "cifar-paper", "bf16") == expected


def test_a_protocol_differs_where_any_of_its_runs_does():
    records = runs_of(("done", 1, 8.0, "bf16"), ("done", 1, 8.0, "bf16", "lr 0.01"), ("unfinished", 1, None))
    records[2]["protocol_differences"] = None
    assert list(table6_table.notes(records)) == ["", "- cifar-paper, bf16: bf16; lr 0.01"]


@pytest.mark.parametrize(("steps", "loss_steps", "num_groups"), [(160, 12, 14), (100, 5, 29), (50, 1, 50)])
def test_the_speed_is_measured_from_group_to_group(steps, loss_steps, num_groups):
    """Steps whose losses are read together end together; here each takes two seconds, and reading takes none."""
    config = RunConfig(model_config("resnet8"), recipe=recipe("digits", steps=steps, batch_size=4), layer_stats_steps=0)
    now = [0.0]
    clock = StepClock(lambda: now[0])
    trainer = Trainer(config, [clock], options=RuntimeOptions(loss_steps=loss_steps))
    update = trainer.update

    def timed_update(*arguments, **options):
        update(*arguments, **options)
        now[0] += 2.0

    trainer.update = timed_update
    trainer.train_epoch()
    assert len(clock._ends) == num_groups
    assert clock.step_s(40) == 2.0


def test_the_bundle_has_the_dependencies_that_the_machine_lacks():
    names = [
        table6_bundle.package_name(line) for line in table6_bundle.requirements(["torch", "NumPy", "scikit_learn"])
    ]
    assert {"scipy", "pillow", "tyro", "rich", "jinja2"} <= {*names}
    assert not {"torch", "numpy", "scikit-learn"} & {*names}
    wheel = "scikit_learn-1.9.1-cp312-cp312-manylinux_2_28_x86_64.whl"
    assert table6_bundle.package_name(wheel) == "scikit-learn"


def test_data_of_the_bundle_are_read_and_are_those_that_were_packed(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (12, 3073), np.uint8)
    images[:, 0] %= 10
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for number in range(1, 6):
        (folder / f"data_batch_{number}.bin").write_text("of an earlier bundle")
        table6_bundle.write_compressed(folder / f"data_batch_{number}.bin", images[2 * number - 2 : 2 * number])
    table6_bundle.write_compressed(folder / "test_batch.bin", images[10:])
    raw = read_archive(DataConfig("cifar10", root=str(tmp_path)))
    assert raw.train.images.flatten(1).tolist() == images[:10, 1:].tolist()
    assert raw.test.labels.tolist() == images[10:, 0].tolist()


def test_a_damaged_record_is_no_row(tmp_path):
    (tmp_path / "cut.json").write_text('{"status": "do')
    (tmp_path / "whole.json").write_text('{"status": "done"}')
    assert table6_table.read_records(tmp_path) == [{"status": "done"}]
