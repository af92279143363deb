"""`resnetlab plan`: counted images, defaults, printed plans and errors."""

import json
import shutil

import pytest
from PIL import Image
from torch import Tensor

from helpers.photographs import write_photographs
from resnetlab.cli import plan, train_config, train_options
from resnetlab.cli.main import main, parse
from resnetlab.config import ConfigError, DataConfig
from resnetlab.data.list_dataset import list_dataset
from resnetlab.data.open_dataset import open_data
from resnetlab.data.shards.pack import PackOptions, pack_dataset
from resnetlab.models.zoo import model_config
from resnetlab.planning import workload
from resnetlab.planning.workload import count_images
from resnetlab.training.plan_run import SCRATCH, PlanRequest, plan_run
from resnetlab.training.recipes import recipe

RESNET50 = ("--model", "resnet50", "--recipe", "imagenet-90")


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("plan") / "insects", sides=(50, 80))


def resolve(*words):
    """Return network, recipe and image size of a plan."""
    options = parse(plan.Options, "plan", words)
    return plan.resolve_training(options, workload.image_stats(options.data))


def json_plan(capsys, *words):
    assert main(["plan", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_the_printed_plan(capsys):
    words = ("--batch-size", "16384", "--devices", "64", "--price-per-hour", "2.5", "--storage-mb-per-s", "20000")
    assert main(["plan", *RESNET50, *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    printed = " ".join(" ".join(lines).split())
    for text in (
        "90 epochs of 1,281,167 images, 224 pixels",
        "64 x H100 SXM (DGX H100), bf16",
        "16,384 images a step on all devices, --batch-size 16384",
        "images/s, 7,020 steps of 16,384 images",
        "bottleneck storage",
        "of 80 GiB on each device",
        "20 GB/s needed, 20 GB/s available",
        "201.3 MB sent by each device a step",
        "at 2.50 an hour for each device, with 16,384 images a step",
        "note above 8,192",
    ):
        assert text in printed


def test_json_output(capsys):
    found = json_plan(capsys, *RESNET50, "--devices", "4", "--price-per-hour", "2")
    assert (found["devices"], found["batch_size"], found["steps"]) == (4, 256, 90 * (1_281_167 // 256))
    assert found["money"] == pytest.approx(8 * found["hours"])
    found = json_plan(capsys, "--devices", "4")
    assert [found[name] for name in ("model", "recipe", "precision")] == ["resnet18", "imagenet-paper", "bf16"]


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--data", "cifar10"),
        ("--data", "cifar10", "--model", "resnet110"),
        ("--data", "digits", "--batch-size", "32"),
        ("--data", "mnist", "--recipe", "imagenet-90", "--batch-size", "512", "--epochs", "3"),
        ("--data", "FOLDER", "--model", "resnet50", "--recipe", "imagenet-90"),
        ("--model", "resnet50", "--recipe", "imagenet-fast", "--batch-size", "8192", "--steps", "100"),
    ],
    ids=" ".join,
)
def test_the_plan_is_for_the_training_that_train_starts(folder, tmp_path, monkeypatch, words):
    words = [str(folder) if word == "FOLDER" else word for word in words]
    shutil.copytree(folder, tmp_path / "imagenet")
    monkeypatch.chdir(tmp_path)
    config = train_config.new_config(
        parse(train_options.Options, "train", words if "--data" in words else [*words, "--data", "imagenet"])
    )
    assert resolve(*words)[:2] == (config.model, config.recipe)


def test_the_plan_for_ones_own_images_is_that_of_random_weights(folder):
    model, found, _ = resolve("--data", str(folder), "--model", "resnet34", "--set", "epochs=3")
    request = PlanRequest(DataConfig(str(folder)), "resnet34", SCRATCH, changes={"epochs": 3})
    trained = plan_run(request, lambda name: False).config
    assert found == trained.recipe
    assert (model.name, found.epochs, found.batch_size) == ("resnet34", 3, 32)


@pytest.mark.parametrize("words", [(), ("--recipe", "fast")])
@pytest.mark.parametrize("sides", [(30, 40), (60, 64), (100, 110)])
def test_the_plan_has_the_network_and_size_that_train_selects(tmp_path, sides, words):
    folder = write_photographs(tmp_path / "photos", sides=sides)
    model, found, image_size = resolve("--data", str(folder), *words)
    request = PlanRequest(DataConfig(str(folder)), weights=SCRATCH, recipe=words[1] if words else None)
    trained = plan_run(request, lambda name: False, measures=False).config
    assert (model.name, found, image_size) == (trained.model.name, trained.recipe, trained.data.image_size)


@pytest.mark.parametrize("name", ["digits", "FOLDER", "SQUARES"])
def test_with_network_and_recipe_the_image_size_is_that_of_the_images(folder, tmp_path, name):
    for label in "ab":
        for number in range(10):
            image = Image.effect_noise((40, 40), 50)
            (tmp_path / label).mkdir(exist_ok=True)
            image.save(tmp_path / label / f"{number}.png")
    data = str({"FOLDER": folder, "SQUARES": tmp_path}.get(name, name))
    side = open_data(DataConfig(data), keep_encoded=True).preprocessing.image_size
    assert workload.image_stats(data).image_size == side
    ((_, image_size, _),) = plan.resolve_plan(plan.Options("resnet18", data, recipe="digits", batch_size=2, devices=1))[
        1
    ].costs
    assert image_size == side


def test_the_default_precision_is_that_of_train(capsys):
    """By default fp32 in short runs, else the faster precision. The V100 has no bf16."""
    small = ("--image-size", "64")
    for words, precision in (((), "bf16"), (("--steps", "5"), "fp32"), (("--device", "v100"), "fp32")):
        assert json_plan(capsys, *small, *words)["precision"] == precision
    words = (*small, "--devices", "1", "--batch-size", "2048", "--precision")
    half, single = (json_plan(capsys, *words, name) for name in ("bf16", "fp32"))
    assert half["limits"]["devices"] > 1.5 * single["limits"]["devices"]
    for precision in ("fp32", "tf32"):
        assert main(["plan", *small, "--precision", precision, "--device", "a100"]) == 0
        assert f"A100 SXM 80 GB (DGX A100), {precision};" in " ".join(capsys.readouterr().out.split())


def test_fp32_is_not_tf32(capsys):
    """On an A100 the matrix units have eight times the speed of the others."""
    words = ("--image-size", "64", "--devices", "1", "--batch-size", "2048", "--device", "a100", "--precision")
    tf32, fp32 = (json_plan(capsys, *words, name) for name in ("tf32", "fp32"))
    assert (tf32["precision"], fp32["precision"]) == ("tf32", "fp32")
    assert tf32["limits"]["devices"] > 1.5 * fp32["limits"]["devices"]
    assert main(["plan", "--device", "v100", "--precision", "tf32"]) == 2
    assert "v100 has no TF32; use --precision fp32 or another --device" in capsys.readouterr().err


def test_a_local_core_is_measured_in_both_precisions(capsys, monkeypatch):
    monkeypatch.setattr(workload, "time_training_image", lambda network, size, number, half: 1e-3 if half else 2e-3)
    words = ("--data", "cifar10", "--device", "here", "--devices", "1")
    found = json_plan(capsys, *words)
    assert (found["precision"], found["images_per_s"]) == ("bf16", pytest.approx(1000))
    found = json_plan(capsys, *words, "--precision", "fp32")
    assert (found["precision"], found["images_per_s"]) == ("fp32", pytest.approx(500))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--price-per-hour", "1e300"), "at 1e+300 an hour"),
        (("--price-per-hour", "1e-9"), "at 1e-09 an hour"),
        (("--storage-mb-per-s", "1e-9"), "storage 9.3e-09)"),
        (("--epochs", "1000000000"), "1,000,000,000 epochs of"),
        (("--epochs", "1"), "1 epoch of"),
        (("--steps", "1"), "1 step of 256 images in"),
    ],
)
def test_tiny_and_huge_numbers_fit_the_page(capsys, words, text):
    assert main(["plan", *RESNET50, *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 20
    assert text in " ".join(" ".join(lines).split())


def test_small_images_stay_in_memory(capsys):
    found = json_plan(capsys, "--model", "resnet20", "--data", "cifar10", "--recipe", "cifar-paper", "--devices", "1")
    assert (found["steps"], found["batch_size"], found["storage_bytes_per_s"]) == (64_000, 128, 0)
    assert set(found["limits"]) == {"devices", "launches"}


def test_crops_of_photographs_are_decoded_in_every_epoch(capsys):
    """Random crops of the originals cannot be stored, whatever the input size."""
    words = ("--data", "imagenet", "--model", "resnet18", "--image-size", "32", "--batch-size", "8192", "--epochs", "1")
    found = json_plan(capsys, *words)
    assert found["bottleneck"] == "decoding"
    assert found["storage_bytes_per_s"] > 0


@pytest.mark.parametrize("crop", ["pad", "resized"])
@pytest.mark.parametrize("image_size", [None, 32])
@pytest.mark.parametrize("width", [224, 240])
def test_resident_images_are_those_of_train(tmp_path, crop, image_size, width):
    for at in range(24):
        (tmp_path / "ab"[at % 2]).mkdir(exist_ok=True)
        Image.new("RGB", (width if at == 0 else 224, 224)).save(tmp_path / "ab"[at % 2] / f"{at}.png")
    data = open_data(DataConfig(str(tmp_path), image_size=image_size), keep_encoded=crop != "pad")
    selected = recipe("imagenet-90" if crop == "resized" else "cifar-paper", batch_size=2)
    assert selected.crop == crop
    stats = count_images(str(tmp_path))
    planned = workload.build_workload(model_config("resnet20"), stats, selected, image_size=image_size, half=False)
    assert (planned.image_bytes == 0) == isinstance(data.train.images, Tensor)


def test_counts_of_folders_are_those_of_train(folder, tmp_path):
    number, length, side, total, _ = count_images(str(folder))
    files = [path.stat().st_size for path in (folder / "train").rglob("*.*")]
    assert (number, length, side, total) == (60, pytest.approx(sum(files) / 60), 224, 72)
    shutil.copytree(folder / "train", tmp_path / "flat")
    assert count_images(str(tmp_path / "flat")).num_train == 48  # 10 % each are held out for validation and test
    shutil.copytree(folder / "train", tmp_path / "split" / "train")
    assert count_images(str(tmp_path / "split")).num_train == 54
    (tmp_path / "flat" / "ant" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert count_images(str(tmp_path / "flat")).mean_bytes == pytest.approx(length, rel=0.01)


def test_a_folder_is_listed_once(folder, monkeypatch):
    listed = []
    monkeypatch.setattr(workload, "list_dataset", lambda config: listed.append(config) or list_dataset(config))
    plan.resolve_plan(plan.Options("resnet18", str(folder), recipe="digits", batch_size=2, devices=1))
    assert len(listed) == 1


def test_only_the_index_of_shards_is_read(folder, tmp_path, monkeypatch):
    pack_dataset(DataConfig(str(folder)), tmp_path / "shards", PackOptions(shard_mib=1))
    tars = sum(path.stat().st_size for path in (tmp_path / "shards").glob("train-*.tar"))
    for path in (tmp_path / "shards").iterdir():
        if path.name != "index.json":
            path.unlink()
    monkeypatch.setattr(workload, "list_dataset", lambda *_: pytest.fail("listed"))
    for name in (str(tmp_path / "shards"), f"file://{tmp_path / 'shards'}"):
        assert count_images(name)[:4] == (60, pytest.approx(tars / 60), 224, 72)
    with pytest.raises(ConfigError, match=r"has no index.json"):
        count_images(f"file://{tmp_path}")


def test_a_plan_for_a_local_core(capsys, monkeypatch):
    monkeypatch.setattr(workload, "time_training_image", lambda network, size, number, half: 1e-3 * size / number)
    words = ("--model", "resnet20", "--data", "digits", "--recipe", "cifar-paper", "--device", "here")
    found = json_plan(capsys, *words, "--devices", "1")
    assert found["images_per_s"] == pytest.approx(128 / 0.008)  # digits have 8 pixels a side
    assert main(["plan", *words, "--devices", "999"]) == 2
    assert "999 devices on this machine of" in capsys.readouterr().err


def test_published_speeds_are_printed(capsys, monkeypatch):
    monkeypatch.setattr(workload, "predict_published_speed", lambda published: 1.1 * published.images_per_s)
    assert main(["plan", "--published"]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert (
        printed.index("constants were set on these")
        < printed.index("resnet50, 1 x a100, 16 bits")
        < printed.index("held out")
    )
    assert main(["plan", "--published", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert all(published["source"] for published in found)
    assert printed.count("+10 %") == len(found)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--devices", "0"), "devices must be at least 1, not 0"),
        (("--device", "cpu"), "device 'cpu' is unknown; use one of v100"),
        (("--model", "resnet51"), "depth 51 is not of the form"),
        (("--recipe", "quick"), "recipe 'quick' is unknown; known: digits"),
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
        (("--data", "digits", "--batch-size", "2048"), "a step needs 2,048 images, and there are 1,257 to train on"),
        (("--device", "v100", "--precision", "bf16"), "v100 does not compute in bf16; use --precision fp32"),
        (("--precision", "half"), "--precision must be auto, fp32, tf32 or bf16, not 'half'"),
    ],
)
def test_invalid_options_are_refused(capsys, words, text):
    assert main(["plan", "--model", "resnet18", *words]) == 2
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1
