"""`resnetlab plan` on the command line: what it counts, prints and refuses."""

import json
import shutil

import pytest

from photographs import photographs
from resnetlab.cli import main
from resnetlab.config import ConfigError, DataConfig
from resnetlab.data.pack import Way, pack
from resnetlab.planning import work
from resnetlab.planning.work import count


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return photographs(tmp_path_factory.mktemp("plan") / "insects", sides=(50, 80))


def planned(capsys, *words):
    assert main(["plan", "--model", "resnet18", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_what_is_printed(capsys):
    words = ("--devices", "64", "--price-per-hour", "2.5", "--storage-mb-per-s", "20000")
    assert main(["plan", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    said = " ".join(" ".join(lines).split())
    for wanted in ("90 epochs of 1,281,167 images, 224 pixels", "64 x H100 SXM", "16,384 images a step",
                   "images/s, 7,020 steps", "bottleneck storage", "of 80 GiB on each device",
                   "20 GB/s wanted, 20 GB/s there", "201.3 MB sent by each device a step", "--batch-size 16384",
                   "at 2.50 an hour and device", "note beyond 8,192"):  # fmt: skip
        assert wanted in said


def test_one_object_of_plain_json(capsys):
    found = planned(capsys, "--devices", "4", "--price-per-hour", "2")
    assert (found["devices"], found["batch_size"], found["steps"]) == (4, 1024, 90 * (1_281_167 // 1024))
    assert found["money"] == pytest.approx(8 * found["hours"])


def test_small_images_stay_in_memory(capsys):
    found = planned(capsys, "--model", "resnet20", "--data", "cifar10", "--recipe", "cifar-paper", "--devices", "1")
    assert (found["steps"], found["batch_size"], found["storage_bytes_per_s"]) == (64_000, 128, 0)
    assert set(found["limits"]) == {"devices", "launches"}


def test_folders_and_parquet_are_counted_as_train_sees_them(folder, tmp_path):
    number, length = count(str(folder))
    files = [path.stat().st_size for path in (folder / "train").rglob("*.*")]
    assert (number, length) == (60, pytest.approx(sum(files) / 60))
    shutil.copytree(folder / "train", tmp_path / "flat")
    assert count(str(tmp_path / "flat"))[0] == 48  # a tenth each is held out to validate and to test
    shutil.copytree(folder / "train", tmp_path / "split" / "train")
    assert count(str(tmp_path / "split"))[0] == 54
    (tmp_path / "flat" / "ant" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert count(str(tmp_path / "flat"))[1] == pytest.approx(length, rel=0.01)


def test_of_shards_the_index_alone_is_read(folder, tmp_path, monkeypatch):
    pack(DataConfig(str(folder)), tmp_path / "shards", Way(shard_mib=1))
    tars = sum(path.stat().st_size for path in (tmp_path / "shards").glob("train-*.tar"))
    for path in (tmp_path / "shards").iterdir():
        if path.name != "index.json":
            path.unlink()
    monkeypatch.setattr(work, "read_contents", lambda *_: pytest.fail("walked"))
    assert count(str(tmp_path / "shards")) == (60, pytest.approx(tars / 60))
    assert count(f"file://{tmp_path / 'shards'}") == (60, pytest.approx(tars / 60))
    with pytest.raises(ConfigError, match=r"there is no index.json"):
        count(f"file://{tmp_path}")


def test_a_core_of_this_machine(capsys, monkeypatch):
    monkeypatch.setattr(work, "measured_s", lambda network, size, number, half: 1e-3 * size / number)
    words = ("--model", "resnet20", "--data", "digits", "--recipe", "cifar-paper", "--device", "here")
    found = planned(capsys, *words, "--devices", "1")
    assert found["images_per_s"] == pytest.approx(128 / 0.032)
    assert main(["plan", *words, "--devices", "999"]) == 2
    assert "999 devices here, and this machine has" in capsys.readouterr().err


def test_published_speeds_are_shown(capsys, monkeypatch):
    monkeypatch.setattr(work, "predicted", lambda figure: 1.1 * figure.images_per_s)
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
        (("--batch-size", "4"), "leave some of 8 devices with fewer than 2"),
        (("--data", "digits"), "a step of 2,048 images, and there are 1,257 to train on"),
    ],
)
def test_a_mistake_in_the_call(capsys, words, said):
    assert main(["plan", "--model", "resnet18", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
