"""`resnetlab doctor` names the stage that was made slow, whichever it is."""

import json
import time

import pytest

from helpers.photographs import write_photographs
from resnetlab.cli.doctor import advice
from resnetlab.cli.main import COMMANDS, main
from resnetlab.data import loader
from resnetlab.data.images import encoded
from resnetlab.data.shards import fetch
from resnetlab.training import profiler
from resnetlab.training.profiler import STAGES, StageSpeeds


@pytest.fixture(autouse=True)
def listed(monkeypatch):
    monkeypatch.setitem(COMMANDS, "doctor", "which stage of a training holds the rest back")
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("doctor") / "insects", sides=(50, 80))


def words(folder, *more):
    return [
        "doctor",
        "--data",
        str(folder),
        "--model",
        "resnet8",
        "--recipe",
        "imagenet-90",
        "--image-size",
        "16",
        "--batch-size",
        "16",
        "--workers",
        "2",
        "--seconds",
        "0.05",
        "--device",
        "cpu",
        *more,
    ]


def examined(folder, capsys, *more):
    assert main(words(folder, "--json", *more)) == 0
    return json.loads(capsys.readouterr().out)


def slowed(function, seconds):
    def slow(*args, **options):
        time.sleep(seconds)
        return function(*args, **options)

    return slow


def test_each_stage_is_measured(folder, capsys):
    found = examined(folder, capsys)
    assert tuple(found["speeds"]) == STAGES
    assert [name for name, speed in found["speeds"].items() if speed is None] == ["transfer"]
    assert all(speed > 0 for speed in found["speeds"].values() if speed is not None)
    assert found["together"] > 0
    assert found["cold"]
    assert 50 <= found["side"] <= 80
    assert found["workers"] == 2


@pytest.mark.parametrize(
    ("stage", "where", "name"),
    [
        ("storage", profiler, "read_place"),
        ("decoding", encoded, "crop"),
        ("augmentation", loader, "normalise"),
        ("step", profiler, "_step"),
    ],
)
def test_the_stage_that_is_slow_is_named(folder, capsys, monkeypatch, stage, where, name):
    monkeypatch.setattr(where, name, slowed(getattr(where, name), 0.1 if name in ("normalise", "_step") else 0.02))
    monkeypatch.setattr(profiler, "HELD", 16)
    assert examined(folder, capsys)["bottleneck"] == stage


def test_images_in_memory_are_neither_read_nor_decoded(folder, capsys):
    assert main(["doctor", "--data", "digits", "--model", "resnet8", "--seconds", "0.02", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    assert "images lie in memory, decoded" in said
    rows = {words[0]: words[1:] for words in map(str.split, said.splitlines()) if len(words) == 3}
    assert rows["storage"] == rows["decoding"] == ["–", "–"]
    assert float(rows["step"][0].replace(",", "")) > 0
    assert "step holds the rest back" in said or "augmentation holds the rest back" in said


def test_what_is_said_fits_the_terminal(folder, capsys):
    assert main(words(folder)) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    assert "storage gave" in said
    assert "the kernel was asked to forget them first" in said
    assert "images/s a worker" in said


def measured(**changes):
    speeds = {"storage": 9e3, "decoding": 9e3, "augmentation": 9e3, "transfer": None, "step": 9e3}
    fields = {
        "together": 1.0,
        "bytes_per_s": 1e8,
        "cold": True,
        "far": False,
        "side": 375.0,
        "shown": 224,
        "batch_size": 256,
        "measured_batch": 256,
        "workers": 2,
        "device": "cuda",
        "execution": "fp32",
    }
    return StageSpeeds(**{**fields, **changes, "speeds": {**speeds, **changes.get("speeds", {})}})


@pytest.mark.parametrize(
    ("changes", "stage", "said"),
    [
        ({"speeds": {"storage": 100}}, "storage", "resnetlab data pack --max-side 256"),
        ({"speeds": {"storage": 100}, "side": 200}, "storage", "resnetlab data pack)"),
        ({"speeds": {"storage": 100}, "far": True, "side": 200}, "storage", "or copy them to a disk of this machine."),
        ({"speeds": {"storage": 100}, "far": True}, "storage", "or pack smaller images (resnetlab data pack"),
        ({"speeds": {"decoding": 100}}, "decoding", "--workers 8 on these cores"),
        ({"speeds": {"decoding": 100}, "workers": 8}, "decoding", "--max-side 256); they have 375 pixels now"),
        ({"speeds": {"decoding": 100}, "workers": 8, "side": 256}, "decoding", "a machine with more cores"),
        ({"speeds": {"augmentation": 100}}, "augmentation", "leave out jitter and lighting"),
        ({"speeds": {"transfer": 100}}, "transfer", "see that the device has all its lanes"),
        ({"speeds": {"step": 100}}, "step", "--precision bf16"),
        ({"speeds": {"step": 100}, "execution": "bf16"}, "step", "a larger batch or --compile on"),
        ({"speeds": {"step": 100}, "device": "cpu"}, "step", "or a GPU is faster"),
        # What follows one another adds up: 1 / (1/300 + 1/300) is less than 200.
        ({"speeds": {"decoding": 200, "augmentation": 300, "step": 300}}, "augmentation", "leave out"),
        ({"speeds": {"decoding": 140, "augmentation": 300, "step": 300}}, "decoding", "--workers 8"),
    ],
)
def test_what_holds_the_rest_back_and_what_to_change(changes, stage, said):
    found = measured(**changes)
    assert found.bottleneck == stage
    assert said in advice(found, 8)


@pytest.mark.parametrize(
    "wrong",
    [("--seconds", "0"), ("--seconds", "nan"), ("--cache-gib", "-1"), ("--workers", "-1"), ("--data", "nowhere")],
)
def test_a_mistake_in_the_call(folder, capsys, wrong):
    assert main([*words(folder), *wrong]) == 2
    assert capsys.readouterr().err.startswith("resnetlab: ")


def test_large_steps_are_measured_small_on_a_cpu(folder, capsys):
    """256 photographs of 224 pixels would take minutes, and their speed is that of a few."""
    large = ("--image-size", "64", "--batch-size", "48")
    found = examined(folder, capsys, *large)
    assert (found["batch_size"], found["measured_batch"]) == (48, 32)
    assert main(words(folder, *large)) == 0
    said = " ".join(capsys.readouterr().out.split())  # where a line ends depends on the folder's name
    assert "48 images a step" in said
    assert "measured with 32 images a step" in said
    assert examined(folder, capsys)["measured_batch"] == 16


def test_what_is_far_is_read_past_the_cache(folder, tmp_path, capsys, monkeypatch):
    """The statistics of the training images have filled the cache before storage is measured."""
    pytest.importorskip("aiohttp")
    from resnetlab.config import DataConfig
    from resnetlab.data.shards.pack import PackOptions, pack_dataset

    pack_dataset(DataConfig(str(folder)), tmp_path / "shards", PackOptions(shard_mib=1))
    monkeypatch.setattr(fetch.RemoteReader, "_read_block", slowed(fetch.RemoteReader._read_block, 0.1))
    found = examined(f"file://{tmp_path / 'shards'}", capsys, "--data-root", str(tmp_path / "cache"))
    (shard,) = (tmp_path / "shards").glob("train-*.tar")
    assert found["far"]
    assert found["speeds"]["storage"] == pytest.approx(60 / shard.stat().st_size * found["bytes_per_s"])
    assert 0 < found["bytes_per_s"] < shard.stat().st_size / 0.1
