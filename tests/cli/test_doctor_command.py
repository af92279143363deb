"""`resnetlab doctor`: it finds the stage that a test slows down, and prints a remedy."""

import json
import time

import pytest

from helpers.photographs import write_photographs
from resnetlab.cli.doctor import advice
from resnetlab.cli.main import main
from resnetlab.config import ConfigError, RunConfig
from resnetlab.data import augmentation
from resnetlab.data.images import encoded
from resnetlab.data.shards import fetch
from resnetlab.models.zoo import model_config
from resnetlab.training import profiler
from resnetlab.training.profiler import STAGES, StageSpeeds
from resnetlab.training.recipes import recipe


@pytest.fixture(autouse=True)
def terminal_width(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("doctor") / "insects", sides=(50, 80))


def doctor_command(folder, *more):
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


def run_doctor(folder, capsys, *more):
    """Run the command with `--json`; return its result."""
    assert main(doctor_command(folder, "--json", *more)) == 0
    return json.loads(capsys.readouterr().out)


def delayed(function, seconds):
    """Return a function that sleeps before each call of another one."""

    def call(*args, **options):
        time.sleep(seconds)
        return function(*args, **options)

    return call


def test_each_stage_is_measured(folder, capsys):
    result = run_doctor(folder, capsys)
    assert tuple(result["speeds"]) == STAGES
    assert [name for name, speed in result["speeds"].items() if speed is None] == ["transfer"]
    assert all(speed > 0 for speed in result["speeds"].values() if speed is not None)
    assert result["all_stages"] > 0
    assert result["page_cache_dropped"]
    assert 50 <= result["image_side"] <= 80
    assert result["workers"] == 2


@pytest.mark.parametrize(
    ("stage", "module", "name"),
    [
        ("storage", profiler, "read_image_bytes"),
        ("decoding", encoded, "decode_crop"),
        ("augmentation", augmentation, "normalise"),
        ("step", profiler, "_step"),
    ],
)
def test_the_slow_stage_is_the_bottleneck(folder, capsys, monkeypatch, stage, module, name):
    delay_s = 0.4 if stage in ("augmentation", "step") else 0.1  # seconds per batch, or per image
    monkeypatch.setattr(module, name, delayed(getattr(module, name), delay_s))
    monkeypatch.setattr(profiler, "NUM_DECODED", 16)
    assert run_doctor(folder, capsys)["bottleneck"] == stage


def test_images_in_memory_are_neither_read_nor_decoded(folder, capsys):
    assert main(["doctor", "--data", "digits", "--model", "resnet8", "--seconds", "0.02", "--device", "cpu"]) == 0
    output = capsys.readouterr().out
    assert max(map(len, output.splitlines())) <= 80
    assert "training neither reads nor decodes" in output
    rows = {cells[0]: cells[1:] for cells in map(str.split, output.splitlines()) if len(cells) == 3}
    assert rows["storage"] == rows["decoding"] == ["–", "–"]
    assert float(rows["step"][0].replace(",", "")) > 0
    assert "bottleneck: step." in output or "bottleneck: augmentation." in output


def test_the_report_fits_the_terminal(folder, capsys):
    assert main(doctor_command(folder)) == 0
    output = capsys.readouterr().out
    assert max(map(len, output.splitlines())) <= 80
    assert "storage: " in output
    assert "page cache dropped" in output
    assert "images/s per worker" in output


def stage_speeds(**changes):
    speeds = {"storage": 9e3, "decoding": 9e3, "augmentation": 9e3, "transfer": None, "step": 9e3}
    fields = {
        "all_stages": 1.0,
        "bytes_per_s": 1e8,
        "cold": True,
        "is_remote": False,
        "image_side": 375.0,
        "train_side": 224,
        "batch_size": 256,
        "measured_batch": 256,
        "workers": 2,
        "device": "cuda",
        "execution": "fp32",
    }
    return StageSpeeds(**{**fields, **changes, "speeds": {**speeds, **changes.get("speeds", {})}})


@pytest.mark.parametrize(
    ("changes", "stage", "remedy"),
    [
        ({"speeds": {"storage": 100}}, "storage", "resnetlab data pack --max-side 256"),
        ({"speeds": {"storage": 100}, "image_side": 200}, "storage", "resnetlab data pack)"),
        (
            {"speeds": {"storage": 100}, "is_remote": True, "image_side": 200},
            "storage",
            "or copy them to a local disk.",
        ),
        ({"speeds": {"storage": 100}, "is_remote": True}, "storage", "or pack smaller images (resnetlab data pack"),
        ({"speeds": {"decoding": 100}}, "decoding", "--workers 8 for 8 cores"),
        ({"speeds": {"decoding": 100}, "workers": 8}, "decoding", "--max-side 256); the shorter side has 375 pixels"),
        ({"speeds": {"decoding": 100}, "workers": 8, "image_side": 256}, "decoding", "use a machine with more cores"),
        ({"speeds": {"augmentation": 100}}, "augmentation", "use a recipe without jitter and lighting"),
        ({"speeds": {"transfer": 100}}, "transfer", "check the PCIe lanes of the device"),
        ({"speeds": {"step": 100}}, "step", "--precision bf16"),
        ({"speeds": {"step": 100}, "execution": "bf16"}, "step", "a larger batch or --compile on"),
        ({"speeds": {"step": 100}, "device": "cpu"}, "step", "or a GPU is faster"),
        # The times of stages in sequence add up: 1 / (1/300 + 1/300) is less than 200.
        ({"speeds": {"decoding": 200, "augmentation": 300, "step": 300}}, "augmentation", "use a recipe without"),
        ({"speeds": {"decoding": 140, "augmentation": 300, "step": 300}}, "decoding", "--workers 8"),
    ],
)
def test_the_bottleneck_has_a_remedy(changes, stage, remedy):
    speeds = stage_speeds(**changes)
    assert speeds.bottleneck == stage
    assert remedy in advice(speeds, 8)


@pytest.mark.parametrize(
    "wrong",
    [("--seconds", "0"), ("--seconds", "nan"), ("--cache-gib", "-1"), ("--workers", "-1"), ("--data", "nowhere")],
)
def test_an_invalid_call_is_refused(folder, capsys, wrong):
    assert main([*doctor_command(folder), *wrong]) == 2
    assert capsys.readouterr().err.startswith("resnetlab: ")


def test_steps_of_all_layers_are_measured(monkeypatch):
    """The recipe of fine-tuning begins with the head alone."""

    def stop(config, **_):
        raise ConfigError(f"frozen for {config.recipe.frozen_epochs} epochs")

    monkeypatch.setattr(profiler, "Trainer", stop)
    config = RunConfig(model_config("resnet8"), recipe=recipe("finetune"), weights="weights.safetensors")
    with pytest.raises(ConfigError, match="frozen for 0 epochs"):
        profiler.measure_stages(config, workers=0)


def test_own_images_have_the_network_of_train(tmp_path, capsys, monkeypatch):
    def stop(config, **_):
        raise ConfigError(f"{config.model.name} at {config.data.image_size}, {config.recipe.name}, {config.precision}")

    monkeypatch.setattr(profiler, "measure_stages", stop)
    small = write_photographs(tmp_path / "small", train=6, val=3, sides=(20, 24))
    assert main(["doctor", "--data", str(small)]) == 2
    assert capsys.readouterr().err == "resnetlab: resnet20 at 32, scratch, fp32\n"


def test_a_cpu_measures_large_steps_with_fewer_images(folder, capsys):
    """256 photographs of 224 pixels would take minutes; the speed hardly depends on their number."""
    large = ("--image-size", "64", "--batch-size", "48")
    result = run_doctor(folder, capsys, *large)
    assert (result["batch_size"], result["measured_batch"]) == (48, 32)
    assert main(doctor_command(folder, *large)) == 0
    output = " ".join(capsys.readouterr().out.split())  # line breaks depend on the name of the folder
    assert "48 images per step" in output
    assert "measured with 32 images per step" in output
    assert run_doctor(folder, capsys)["measured_batch"] == 16


def test_remote_shards_are_read_past_the_cache(folder, tmp_path, capsys, monkeypatch):
    """The statistics of the training images fill the cache before storage is measured."""
    pytest.importorskip("aiohttp")
    from resnetlab.config import DataConfig
    from resnetlab.data.shards.pack import PackOptions, pack_dataset

    pack_dataset(DataConfig(str(folder)), tmp_path / "shards", PackOptions(shard_mib=1))
    monkeypatch.setattr(fetch.RemoteReader, "_read_block", delayed(fetch.RemoteReader._read_block, 0.1))
    result = run_doctor(f"file://{tmp_path / 'shards'}", capsys, "--data-root", str(tmp_path / "cache"))
    (shard,) = (tmp_path / "shards").glob("train-*.tar")
    assert result["is_remote"]
    assert result["speeds"]["storage"] == pytest.approx(60 / shard.stat().st_size * result["bytes_per_s"])
    assert 0 < result["bytes_per_s"] < shard.stat().st_size / 0.1
