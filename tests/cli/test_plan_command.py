"""`resnetlab plan` on the command line: what it counts, prints and refuses."""

import json
import shutil

import pytest
from PIL import Image
from torch import Tensor

from helpers.photographs import photographs
from resnetlab.cli import plan, train
from resnetlab.cli.main import main, parse
from resnetlab.config import ConfigError, DataConfig
from resnetlab.data.open_dataset import open_data
from resnetlab.data.shards.pack import PackOptions, pack_dataset
from resnetlab.models.zoo import model_config
from resnetlab.planning import workload
from resnetlab.planning.workload import count_images
from resnetlab.training.recipes import recipe

USUAL = ("--model", "resnet50", "--recipe", "imagenet-90")


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return photographs(tmp_path_factory.mktemp("plan") / "insects", sides=(50, 80))


def planned(capsys, *words):
    assert main(["plan", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_what_is_printed(capsys):
    words = ("--batch-size", "16384", "--devices", "64", "--price-per-hour", "2.5", "--storage-mb-per-s", "20000")
    assert main(["plan", *USUAL, *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    said = " ".join(" ".join(lines).split())
    for wanted in (
        "90 epochs of 1,281,167 images, 224 pixels",
        "64 x H100 SXM (DGX H100), bf16",
        "16,384 images a step over all, --batch-size 16384",
        "images/s, 7,020 steps of 16,384 images",
        "bottleneck storage",
        "of 80 GiB on each device",
        "20 GB/s wanted, 20 GB/s there",
        "201.3 MB sent by each device a step",
        "at 2.50 an hour and device, with 16,384 images a step",
        "note beyond 8,192",
    ):
        assert wanted in said


def test_one_object_of_plain_json(capsys):
    found = planned(capsys, *USUAL, "--devices", "4", "--price-per-hour", "2")
    assert (found["devices"], found["batch_size"], found["steps"]) == (4, 256, 90 * (1_281_167 // 256))
    assert found["money"] == pytest.approx(8 * found["hours"])
    found = planned(capsys, "--devices", "4")
    assert [found[name] for name in ("model", "recipe", "precision")] == ["resnet18", "imagenet-paper", "bf16"]


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--data", "cifar10"),
        ("--data", "cifar10", "--model", "resnet110"),
        ("--data", "digits", "--batch-size", "32"),
        ("--data", "mnist", "--recipe", "imagenet-90", "--batch-size", "512", "--epochs", "3"),
        ("--data", "FOLDER"),
        ("--data", "FOLDER", "--model", "resnet50", "--recipe", "imagenet-90"),
        ("--model", "resnet50", "--recipe", "imagenet-fast", "--batch-size", "8192", "--steps", "100"),
    ],
    ids=" ".join,
)
def test_what_is_planned_is_what_train_begins(folder, tmp_path, monkeypatch, words):
    words = [str(folder) if word == "FOLDER" else word for word in words]
    shutil.copytree(folder, tmp_path / "imagenet")
    monkeypatch.chdir(tmp_path)
    begun = train.new_config(
        parse(train.Options, "train", words if "--data" in words else [*words, "--data", "imagenet"])
    )
    assert plan.training(parse(plan.Options, "plan", words)) == (begun.model, begun.recipe)


@pytest.mark.parametrize("name", ["digits", "FOLDER", "SQUARES"])
def test_images_are_as_large_as_train_shows_them(folder, tmp_path, name):
    for label in "ab":
        for number in range(10):
            image = Image.effect_noise((40, 40), 50)
            (tmp_path / label).mkdir(exist_ok=True)
            image.save(tmp_path / label / f"{number}.png")
    data = str({"FOLDER": folder, "SQUARES": tmp_path}.get(name, name))
    side = open_data(DataConfig(data), keep_encoded=True).preprocessing.image_size
    assert (workload.SETS[data] if data in workload.SETS else count_images(data)).side == side
    ((_, planned, _),) = plan.resolve_plan(plan.Options(data=data, batch_size=2, devices=1))[1].counted
    assert planned == side


def test_precision_is_said_as_in_train(capsys):
    """Left to itself: fp32 in short runs, then the faster one; the V100 has no bf16."""
    small = ("--image-size", "64")
    for words, precision in (((), "bf16"), (("--steps", "50"), "fp32"), (("--device", "v100"), "fp32")):
        assert planned(capsys, *small, *words)["precision"] == precision
    words = (*small, "--devices", "1", "--batch-size", "2048", "--precision")
    half, single = (planned(capsys, *words, name) for name in ("bf16", "fp32"))
    assert half["limits"]["devices"] > 1.5 * single["limits"]["devices"]
    for words, said in ((("--device", "a100"), "fp32 (convolutions in TF32);"), (("--device", "v100"), "fp32;")):
        assert main(["plan", *small, "--precision", "fp32", *words]) == 0
        assert said in " ".join(capsys.readouterr().out.split())


def test_of_a_core_of_this_machine_the_faster_precision_is_measured(capsys, monkeypatch):
    monkeypatch.setattr(workload, "time_training_image", lambda network, size, number, half: 1e-3 if half else 2e-3)
    words = ("--data", "cifar10", "--device", "here", "--devices", "1")
    found = planned(capsys, *words)
    assert (found["precision"], found["images_per_s"]) == ("bf16", pytest.approx(1000))
    found = planned(capsys, *words, "--precision", "fp32")
    assert (found["precision"], found["images_per_s"]) == ("fp32", pytest.approx(500))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--price-per-hour", "1e300"), "at 1e+300 an hour"),
        (("--price-per-hour", "1e-9"), "at 1e-09 an hour"),
        (("--storage-mb-per-s", "1e-9"), "storage 9.3e-09)"),
        (("--epochs", "1000000000"), "1,000,000,000 epochs of"),
        (("--steps", "1"), "1 steps of 256 images in"),
    ],
)
def test_tiny_and_huge_figures_fit_the_page(capsys, words, said):
    assert main(["plan", *USUAL, *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 20
    assert said in " ".join(" ".join(lines).split())


def test_small_images_stay_in_memory(capsys):
    found = planned(capsys, "--model", "resnet20", "--data", "cifar10", "--recipe", "cifar-paper", "--devices", "1")
    assert (found["steps"], found["batch_size"], found["storage_bytes_per_s"]) == (64_000, 128, 0)
    assert set(found["limits"]) == {"devices", "launches"}


def test_of_photographs_small_views_are_decoded_each_time(capsys):
    """What is cut from the original cannot be kept, however small it is shown."""
    words = ("--data", "imagenet", "--model", "resnet18", "--image-size", "32", "--batch-size", "8192", "--epochs", "1")
    found = planned(capsys, *words)
    assert found["bottleneck"] == "decoding"
    assert found["storage_bytes_per_s"] > 0


@pytest.mark.parametrize("crop", ["pad", "resized"])
@pytest.mark.parametrize("image_size", [None, 32])
@pytest.mark.parametrize("width", [224, 240])
def test_what_stays_in_memory_is_what_train_keeps_there(tmp_path, crop, image_size, width):
    for at in range(24):
        (tmp_path / "ab"[at % 2]).mkdir(exist_ok=True)
        Image.new("RGB", (width if at == 0 else 224, 224)).save(tmp_path / "ab"[at % 2] / f"{at}.png")
    data = open_data(DataConfig(str(tmp_path), image_size=image_size), keep_encoded=crop != "pad")
    way = recipe("imagenet-90" if crop == "resized" else "cifar-paper", batch_size=2)
    assert way.crop == crop
    planned = workload.workload_of(model_config("resnet20"), str(tmp_path), way, image_size, half=False)
    assert (planned.image_bytes == 0) == isinstance(data.train.images, Tensor)


def test_folders_and_parquet_are_counted_as_train_sees_them(folder, tmp_path):
    number, length, side, total, _ = count_images(str(folder))
    files = [path.stat().st_size for path in (folder / "train").rglob("*.*")]
    assert (number, length, side, total) == (60, pytest.approx(sum(files) / 60), 224, 72)
    shutil.copytree(folder / "train", tmp_path / "flat")
    assert count_images(str(tmp_path / "flat")).number == 48  # a tenth each is held out to validate and to test
    shutil.copytree(folder / "train", tmp_path / "split" / "train")
    assert count_images(str(tmp_path / "split")).number == 54
    (tmp_path / "flat" / "ant" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert count_images(str(tmp_path / "flat")).bytes == pytest.approx(length, rel=0.01)


def test_of_shards_the_index_alone_is_read(folder, tmp_path, monkeypatch):
    pack_dataset(DataConfig(str(folder)), tmp_path / "shards", PackOptions(shard_mib=1))
    tars = sum(path.stat().st_size for path in (tmp_path / "shards").glob("train-*.tar"))
    for path in (tmp_path / "shards").iterdir():
        if path.name != "index.json":
            path.unlink()
    monkeypatch.setattr(workload, "list_dataset", lambda *_: pytest.fail("walked"))
    for name in (str(tmp_path / "shards"), f"file://{tmp_path / 'shards'}"):
        assert count_images(name)[:4] == (60, pytest.approx(tars / 60), 224, 72)
    with pytest.raises(ConfigError, match=r"there is no index.json"):
        count_images(f"file://{tmp_path}")


def test_a_core_of_this_machine(capsys, monkeypatch):
    monkeypatch.setattr(workload, "time_training_image", lambda network, size, number, half: 1e-3 * size / number)
    words = ("--model", "resnet20", "--data", "digits", "--recipe", "cifar-paper", "--device", "here")
    found = planned(capsys, *words, "--devices", "1")
    assert found["images_per_s"] == pytest.approx(128 / 0.008)  # digits have 8 pixels a side
    assert main(["plan", *words, "--devices", "999"]) == 2
    assert "999 devices here, and this machine has" in capsys.readouterr().err


def test_published_speeds_are_shown(capsys, monkeypatch):
    monkeypatch.setattr(workload, "predict_published", lambda figure: 1.1 * figure.images_per_s)
    assert main(["plan", "--published"]) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    assert (
        said.index("constants were set on these") < said.index("resnet50, 1 x a100, 16 bits") < said.index("held out")
    )
    assert main(["plan", "--published", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert all(figure["source"] for figure in found)
    assert said.count("+10 %") == len(found)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--devices", "0"), "devices must be at least 1, not 0"),
        (("--device", "cpu"), "device 'cpu' is not known; known: v100"),
        (("--model", "resnet51"), "depth 51 is not of the form"),
        (("--recipe", "fast"), "recipe 'fast' is unknown; known: digits"),
        (("--data", "nowhere"), "a plan knows imagenet, cifar10"),
        (("--price-per-hour", "-1"), "price-per-hour must be at least 0, not -1"),
        (("--price-per-hour", "nan"), "price-per-hour must be a number, not nan"),
        (("--decode-ms", "inf"), "decode-ms must be a number, not inf"),
        (("--storage-mb-per-s", "0"), "storage-mb-per-s must be above 0, not 0"),
        (("--image-size", "1"), "image-size must be at least 8, not 1"),
        (("--image-size", "100000"), "image-size must be at most 2048, not 100000"),
        (("--steps", "0"), "steps must be at least 1, not 0"),
        (("--batch-size", "4"), "leave some of 8 devices with fewer than 2"),
        (("--devices", "1000000"), "256 images a step leave some of 1,000,000 devices with fewer than 2"),
        (("--data", "digits", "--batch-size", "2048"), "a step of 2,048 images, and there are 1,257 to train on"),
        (("--device", "v100", "--precision", "bf16"), "v100 does not compute in bf16; use --precision fp32"),
        (("--precision", "half"), "Expected one of ('auto', 'fp32', 'bf16')"),
    ],
)
def test_a_mistake_in_the_call(capsys, words, said):
    assert main(["plan", "--model", "resnet18", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
