"""`train --from FILE.pth` in one step: a published file is recognised, and for others what is assumed is printed."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from helpers.public_resnets import randomise
from resnetlab.cli.main import main
from resnetlab.config import Preprocessing
from resnetlab.models.model_card import read_card
from resnetlab.models.model_file import load_model
from resnetlab.models.pretrained.catalogue import CATALOGUE
from resnetlab.models.pretrained.convert import convert, weights_title
from resnetlab.models.pretrained.fetch import conversion_of
from resnetlab.models.pretrained.from_file import model_file_of
from resnetlab.models.zoo import build_model

from conftest import ROOT

SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESNETLAB_CACHE", str(tmp_path / "cache"))


def converted(path):
    """Return the card of the conversion, and the logged lines without the path."""
    lines = []
    return read_card(model_file_of(str(path), lines.append)), [line.removeprefix(f"{path}: ") for line in lines]


def save(path, name, num_classes, rename="", **changes):
    model = randomise(build_model(name, num_classes, **changes))
    state = {key.replace("fc.", rename) if rename else key: value for key, value in model.state_dict().items()}
    torch.save(state, path)
    return model


@pytest.mark.skipif(not (SHARED / "weights").exists(), reason="shared/data/weights is missing")
def test_published_file_is_recognised_under_any_name(tmp_path):
    shutil.copy(SHARED / "weights" / "resnet20-12fca82f.th", tmp_path / "mine.th")
    card, lines = converted(tmp_path / "mine.th")
    entry = CATALOGUE["resnet20.akamaster_cifar10"]
    assert lines == ["resnet20.akamaster_cifar10, by its SHA-256"]
    assert (card.classes[0], card.preprocessing) == ("airplane", entry.preprocessing)
    assert card.provenance["converted_from"]["url"] == entry.file.url


def test_small_network_with_a_projection(tmp_path):
    model = save(tmp_path / "a.pth", "resnet8", 10, shortcut="project")
    card, lines = converted(tmp_path / "a.pth")
    assert torch.equal(load_model(model_file_of(str(tmp_path / "a.pth"), print))[0].fc.weight, model.fc.weight)
    assert card.classes[9] == "truck"
    assert card.preprocessing == Preprocessing(32, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201))
    assert lines[0] == "resnet8, 10 outputs, keys as in torchvision or timm"
    assert lines[3] == (
        "assumed: 32 pixels, mean 0.4914 0.4822 0.4465, deviation 0.2023 0.1994 0.201 (as in kuangliu's and "
        "chenyaofo's repositories), classes of CIFAR-10; resnetlab inspect FILE --save NEW takes other values"
    )


def test_assumptions_without_an_option_are_named(tmp_path):
    """A network with a stem of stride 2, which no tensor shows, would load and compute something else."""
    save(tmp_path / "a.pth", "resnet8", 10, shortcut="project")
    line = converted(tmp_path / "a.pth")[1][4]
    assert line.startswith("assumed, and no option changes it: stride of projections: in the 1x1 convolution")
    assert "stem: stride 1, no pool; map: halved by each later stage" in line


def test_other_weights_in_the_file_are_named(tmp_path):
    states = [randomise(build_model("resnet8", 10, shortcut="project")).state_dict() for _ in range(2)]
    torch.save({"model": states[0], "model_ema": states[1], "epoch": 3}, tmp_path / "a.pth")
    lines = converted(tmp_path / "a.pth")[1]
    assert lines[1] == (
        "the weights under model are taken, not model_ema; resnetlab inspect FILE --tensors NAME --save NEW takes "
        "others"
    )
    assert any("classes of CIFAR-10;" in line for line in lines)  # not the name of the other weights
    save(tmp_path / "alone.pth", "resnet8", 10, shortcut="project")
    assert not any("are taken" in line for line in converted(tmp_path / "alone.pth")[1])


def test_each_part_of_a_file_counts(tmp_path):
    state = randomise(build_model("resnet8", 10, shortcut="project")).state_dict()
    keys = list(state)
    paths = [tmp_path / f"net-0000{part}-of-00002.safetensors" for part in (1, 2)]

    def made(state):
        for path, part in zip(paths, (keys[:20], keys[20:]), strict=True):
            save_file({key: state[key] for key in part}, path)
        return model_file_of(str(paths[0]), lambda line: None)

    first = made(state)
    changed = made({**state, "fc.bias": state["fc.bias"] + 1})
    assert first != changed
    assert torch.equal(load_model(changed)[0].fc.bias, state["fc.bias"] + 1)
    digests = {read_card(path).provenance["converted_from"]["sha256"] for path in (first, changed)}
    assert len(digests) == 2


def test_option_a_is_an_assumption(tmp_path):
    save(tmp_path / "a.pth", "resnet8", 7, rename="linear.")
    card, lines = converted(tmp_path / "a.pth")
    assert card.classes == tuple(f"class {number}" for number in range(7))
    assert any(line.startswith("assumed: plain or residual: residual (option A)") for line in lines)
    assert any("classes by number" in line for line in lines)


def test_imagenet_network(tmp_path):
    save(tmp_path / "a.pth", "resnet18", 5, stage_channels=(4, 8, 16, 32))
    card, lines = converted(tmp_path / "a.pth")
    assert (card.preprocessing.image_size, card.preprocessing.resize_rule) == (224, "torchvision")
    assert "224 pixels, mean 0.485 0.456 0.406" in lines[3]


def test_grey_network(tmp_path):
    save(tmp_path / "a.pth", "resnet8", 3, in_channels=1)
    assert converted(tmp_path / "a.pth")[0].preprocessing == Preprocessing(32, (0.5,), (0.5,))


def test_other_scale_of_pixels_is_a_warning(tmp_path):
    model = randomise(build_model("resnet8", 10, shortcut="project"))
    model.state_dict()["bn1.running_var"].mul_(255.0**2)
    torch.save(model.state_dict(), tmp_path / "a.pth")
    assert any("times larger than these mean and deviation give" in line for line in converted(tmp_path / "a.pth")[1])


@pytest.mark.parametrize("text", ["resnet18.tv_in1k", "hf:/a/b", "runs/a", "nothing.pth"])
def test_names_and_missing_files_stay(text):
    assert model_file_of(text, pytest.fail) == text


def test_model_file_stays(tmp_path):
    save(tmp_path / "a.pth", "resnet8", 10, shortcut="project")
    made = model_file_of(str(tmp_path / "a.pth"), lambda line: None)
    assert model_file_of(made, pytest.fail) == made


def test_a_conversion_has_the_name_of_the_published_weights_else_of_its_file(tmp_path):
    source = tmp_path / "my net.pth"
    save(source, "resnet8", 10, shortcut="project")
    made = model_file_of(str(source), lambda line: None)
    assert weights_title(made) == "my net.pth"
    published = conversion_of(CATALOGUE["resnet20.akamaster_cifar10"])
    path = convert(source, replace(published, model=None), "0" * 64)
    assert weights_title(str(path)) == "resnet20.akamaster_cifar10"
    path.unlink()
    assert weights_title(str(path)) == "resnet20.akamaster_cifar10"  # by the file's name
    for name in ("resnet18.tv_in1k", "runs/photos-seed0", str(source)):
        assert weights_title(name) == name


def test_train_from_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a.pth", "resnet8", 10, shortcut="project")
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(10):
            pixels = np.random.default_rng(index).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{index}.png")
    words = ["train", "--from", "a.pth", "--data", "photos", "--steps", "1", "--batch-size", "4", "--workers", "0"]
    assert main([*words, "--json"]) == 0
    captured = capsys.readouterr()
    assert "resnetlab: a.pth: assumed: 32 pixels" in captured.err
    assert "train    resnet8 from a.pth on photos: " in captured.err
    assert "start    a.pth: new head: other classes" in captured.err
    assert "cache" not in captured.err
    assert read_card(json.loads(captured.out)["out"]).classes == ("cat", "dog")
    assert main([*words, "--resume", "--json"]) == 0  # the finished run is found again
