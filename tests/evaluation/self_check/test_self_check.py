"""Self-check of weights: the right assumption is found, another is never decided, and contradictions are reported."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from helpers.seen_networks import colour_images, seen_network
from resnetlab.cli.main import main
from resnetlab.config import ConfigError, Preprocessing
from resnetlab.data.dataset import Split
from resnetlab.evaluation.self_check.bn_agreement import ChannelMoments, squared_hellinger
from resnetlab.evaluation.self_check.check_weights import check_network, check_weights
from resnetlab.evaluation.self_check.decision import decide
from resnetlab.evaluation.self_check.patch_moments import PatchMoments
from resnetlab.evaluation.self_check.quick_check import contradiction
from resnetlab.evaluation.self_check.training_views import SMALL_IMAGE_VIEWS, make_view, normalise_view
from resnetlab.models.importing.assumptions import AssumptionOverrides
from resnetlab.models.importing.import_weights import import_weights
from resnetlab.models.model_file import ModelCard, load_model

from conftest import ROOT

SHARED = ROOT.parent / "shared" / "data"
IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
CAFFE: dict[str, Any] = {"mean": (0.406, 0.456, 0.485), "std": (1 / 255,) * 3}
PHOTOGRAPHS: dict[str, Any] = {"stem": "imagenet", "shortcut": "project"}
BOTTLENECK: dict[str, Any] = {"name": "resnet11-cifar", "block": "bottleneck"}
TRAINED_ON, SEEN = colour_images(512, seed=1), colour_images(192, seed=2)


def check(model, images=SEEN):
    return check_network(model.config, model.state_dict(), list(images), image_size=16)


def test_the_distance_is_that_of_two_gaussians():
    """The integral of (sqrt p - sqrt q)^2 / 2, computed on a grid."""
    x = np.linspace(-40, 40, 400_001)
    for (m1, v1), (m2, v2) in [((0, 1), (0.5, 1)), ((0, 1), (0, 4)), ((1, 0.2), (-2, 3))]:
        p, q = (np.exp(-((x - m) ** 2) / (2 * v)) / np.sqrt(2 * np.pi * v) for m, v in ((m1, v1), (m2, v2)))
        integral = 0.5 * ((np.sqrt(p) - np.sqrt(q)) ** 2).sum() * (x[1] - x[0])
        one, two = (ChannelMoments(torch.tensor([float(m)]), torch.tensor([float(v)])) for m, v in ((m1, v1), (m2, v2)))
        assert float(squared_hellinger(one, two)) == pytest.approx(integral, rel=1e-5)
        assert float(squared_hellinger(two, one)) == float(squared_hellinger(one, two))


@pytest.mark.parametrize("kind", SMALL_IMAGE_VIEWS)
@pytest.mark.parametrize("bgr", [False, True])
def test_the_first_layer_in_closed_form_is_that_of_the_images(kind, bgr):
    conv = nn.Conv2d(3, 6, 3, padding=1, bias=False)
    view = make_view(list(SEEN[:20]), kind, 16, 1.0)
    found = PatchMoments.of(view, conv).conv_moments(conv, *IMAGENET.values(), bgr=bgr)
    images = normalise_view(view, *IMAGENET.values())
    with torch.no_grad():
        outputs = conv(images.flip(1) if bgr else images).double()
    assert torch.allclose(found.mean, outputs.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(found.variance, outputs.var((0, 2, 3), correction=0), rtol=1e-4)


NETWORKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({"shortcut": "none", **IMAGENET}, {"shortcut": "none", "normalisation": "ImageNet"}),
    "appended": (IMAGENET, {"shortcut": "pad", "zero_channels": "append", "channel_order": "RGB"}),
    "split": ({"split": True, **HALF}, {"shortcut": "pad", "zero_channels": "split", "normalisation": "-1 to 1"}),
    "BGR from 0 to 255": (
        {"bgr": True, "shortcut": "project", **CAFFE},
        {"channel_order": "BGR", "normalisation": "0 to 255 minus ImageNet's mean"},
    ),
    "v1": (BOTTLENECK | {"shortcut": "project", "bottleneck_stride": "1x1"} | HALF, {"bottleneck_stride": "1x1"}),
    "v1.5": (BOTTLENECK | {"bottleneck_stride": "3x3"} | HALF, {"bottleneck_stride": "3x3"}),
    "average pool": (PHOTOGRAPHS | {"pool": nn.AvgPool2d(3, 2, 1)} | IMAGENET, {"stem_pool": "average"}),
    "max pool": (PHOTOGRAPHS | IMAGENET, {"stem_pool": "max"}),
    "ResNet-D": ({"shortcut": "project", "average_shortcut": True} | HALF, {"subsampling": "average"}),
}
TRUTH: dict[str, Any] = {
    "zero_channels": "append",
    "bottleneck_stride": "3x3",
    "subsampling": "stride",
    "stem_pool": "max",
    "bn_epsilon": 1e-5,
    "channel_order": "RGB",
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_right_assumption_is_found_and_no_other(name):
    options, expected = NETWORKS[name]
    found = dict(check(seen_network(TRAINED_ON, **options)).decided)
    if "normalisation" in found:
        found["normalisation"] = found["normalisation"].name
    assert {key: found.get(key) for key in expected} == expected
    truth = TRUTH | expected | {"shortcut": options.get("shortcut", "pad")}
    assert {key: value for key, value in found.items() if truth.get(key, value) != value} == {}


@pytest.mark.parametrize("change", ["dark", "bright", "grey", "few"])
def test_images_of_another_kind_decide_no_wrong_preprocessing(change):
    """No mean or deviation explains them, so nothing is decided; the wiring is decided rightly or not at all."""
    images = {
        "dark": (SEEN * 0.5).byte(),
        "bright": (SEEN.float() + 20).clamp(0, 255).byte(),
        "grey": SEEN.float().mean(1, keepdim=True).byte().expand(-1, 3, -1, -1),
        "few": SEEN[:64],
    }[change]
    found = check(seen_network(TRAINED_ON, shortcut="none", **IMAGENET), images).decided
    assert found.get("shortcut", "none") == "none"
    assert getattr(found.get("normalisation"), "name", "ImageNet") == "ImageNet"
    assert found.get("channel_order", "RGB") == "RGB"


@pytest.mark.parametrize("channels", [1, 4])
def test_networks_that_do_not_read_colours(channels):
    images = SEEN[:, [0] * channels]
    model = seen_network(TRAINED_ON[:, [0] * channels], mean=(0.5,) * channels, std=(0.5,) * channels, shortcut="none")
    found = check(model, images)
    assert found.decided["shortcut"] == "none"
    assert "channel_order" not in found.decided
    assert getattr(found.decided.get("normalisation"), "name", "-1 to 1") == "-1 to 1"


def test_a_decision_needs_agreement_and_a_margin():
    assert decide({"a": 0.001, "b": 0.01}, 0.003) == "a"
    assert decide({"a": 0.001, "b": 0.0029}, 0.003) is None
    assert decide({"a": 0.004, "b": 0.9}, 0.003) is None
    assert decide({"a": 0.0, "b": 0.0}, 0.003) is None
    assert decide({"a": 0.001}, 0.003) is None


def test_what_cannot_be_checked_is_an_error():
    with pytest.raises(ConfigError, match="8 images are too few"):
        check(seen_network(TRAINED_ON[:64], **HALF), SEEN[:8])
    model = seen_network(TRAINED_ON[:64], norm="none", **HALF)
    with pytest.raises(ConfigError, match="no batch normalisation"):
        check(model)


def card_of(model, mean, std):
    names = tuple(f"c{index}" for index in range(10))
    return ModelCard(
        model.config, names, Preprocessing(16, mean, std), provenance={"converted_from": {"file": "a.pth"}}
    )


def split_of(images):
    return Split(images, torch.zeros(len(images), dtype=torch.int64))


@pytest.fixture
def plain(tmp_path):
    """A file of a plain network, whose tensors are those of option A as well."""
    path = tmp_path / "plain.pth"
    torch.save(seen_network(TRAINED_ON, shortcut="none", **IMAGENET).state_dict(), path)
    return path


def test_evaluation_warns_of_a_plain_network_read_as_residual(plain):
    wrong = import_weights(plain).model
    right = import_weights(plain, AssumptionOverrides(shortcut="none")).model
    assert wrong.config.shortcut == "pad"
    line = contradiction(wrong, card_of(wrong, *IMAGENET.values()), split_of(SEEN))
    assert line is not None
    assert "agree with a plain network" in line
    assert contradiction(right, card_of(right, *IMAGENET.values()), split_of(SEEN)) is None


@pytest.mark.parametrize("wrong", ["order", "scale", "mean"])
def test_evaluation_warns_of_wrong_colours(plain, wrong):
    model = import_weights(plain, AssumptionOverrides(shortcut="none")).model
    values = {"order": IMAGENET, "scale": CAFFE, "mean": HALF}[wrong]
    images = SEEN.flip(1) if wrong == "order" else SEEN  # as OpenCV reads them
    line = contradiction(model, card_of(model, *values.values()), split_of(images))
    assert line is not None
    assert ("BGR" if wrong == "order" else "agree with ImageNet (") in line


def test_other_kinds_of_images_and_own_networks_give_no_warning(plain):
    model = import_weights(plain, AssumptionOverrides(shortcut="none")).model
    card = card_of(model, *IMAGENET.values())
    noise = torch.randint(0, 256, (192, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for images in (noise, (SEEN * 0.5).byte(), SEEN[:, :1].expand(-1, 3, -1, -1), TRAINED_ON.flip(-2)):
        assert contradiction(model, card, split_of(images)) is None
    wrong = card_of(model, *CAFFE.values())
    assert contradiction(model, replace(wrong, provenance={"config": {}}), split_of(SEEN)) is None


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for index, image in enumerate(SEEN):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{index}.png")
    return folder


def test_inspect_decides_and_save_uses_it(plain, photographs, tmp_path, capsys):
    out = tmp_path / "plain.safetensors"
    words = ["inspect", plain, "--data", photographs, "--image-size", "16", "--save", out, "--classes", *"abcdefghij"]
    assert main([*map(str, words), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    decided = {item["property"]: item["decided"] for item in printed["check"]["findings"]}
    assert (decided["shortcuts"], decided["mean and deviation"]) == ("none", "ImageNet")
    model, card = load_model(out)
    assert model.config.shortcut == "none"
    assert (card.preprocessing.mean, card.preprocessing.std) == tuple(IMAGENET.values())
    assert card.provenance["converted_from"]["assumed"]["plain or residual"] == "plain"
    assert main(["inspect", str(out), "--data", str(photographs)]) == 0
    assert "shortcuts: none (a plain network) (" in capsys.readouterr().out


def test_the_users_options_win_and_a_contradiction_is_reported(plain, photographs, tmp_path, capsys):
    out = tmp_path / "residual.safetensors"
    words = ["inspect", plain, "--data", photographs, "--image-size", "16", "--save", out, "--classes", *"abcdefghij"]
    words += ["--shortcut", "pad", "--mean", *"555", "--std", *"555"]
    words = [".5" if word == "5" else str(word) for word in words]
    assert main(words) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "contradiction: --shortcut pad, and the statistics show none" in printed
    assert "contradiction: --mean and --std differ from what the statistics show: ImageNet" in printed
    model, card = load_model(out)
    assert (model.config.shortcut, card.preprocessing.mean) == ("pad", (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("given", "stored", "line"),
    [
        ((), 32, "stored in the model file: mean and deviation (ImageNet), image size 32"),
        (("--image-size", "16"), 16, "contradiction: --image-size 16, and the statistics show 32"),
        (("--image-size", "32"), 32, "stored in the model file: mean and deviation (ImageNet) network"),
    ],
)
def test_a_decided_image_size_is_stored_unless_the_user_gives_one(
    given, stored, line, plain, photographs, tmp_path, monkeypatch, capsys
):
    def decides_32(*arguments, **options):
        found = check_network(*arguments, **{**options, "image_size": 16})
        return replace(found, decided={**found.decided, "image_size": 32})

    monkeypatch.setattr("resnetlab.evaluation.self_check.check_weights.check_network", decides_32)
    out = tmp_path / "plain.safetensors"
    words = ["inspect", plain, "--data", photographs, "--save", out, *given, "--classes", *"abcdefghij"]
    assert main([*map(str, words)]) == 0
    assert line in " ".join(capsys.readouterr().out.split()).replace("classes", "network")
    assert load_model(out)[1].preprocessing.image_size == stored


@pytest.fixture
def misread(tmp_path):
    """A model file of a plain network as a residual one, and labelled images."""
    model = seen_network(TRAINED_ON, shortcut="none", stage_channels=(16, 32, 64), **IMAGENET)
    torch.save(model.state_dict(), tmp_path / "plain.pth")
    out, folder = tmp_path / "misread.safetensors", tmp_path / "data"
    words = [
        "inspect",
        tmp_path / "plain.pth",
        "--save",
        out,
        "--image-size",
        "16",
        "--shortcut",
        "pad",
        "--classes",
        *"abcdefghij",
    ]
    words += ["--mean", ".485", ".456", ".406", "--std", ".229", ".224", ".225"]
    assert main([*map(str, words)]) == 0
    for index, image in enumerate(SEEN[:40]):
        file = folder / "ab"[index % 2] / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file)
    return out, folder


def test_evaluate_says_that_a_file_was_misread(misread, capsys):
    file, folder = misread
    capsys.readouterr()
    assert main(["evaluate", str(file), "--data", str(folder), "--allow-missing-classes", "--json"]) == 0
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert sum("agree with a plain network" in note for note in notes) == 1


def test_train_says_that_a_file_was_misread(misread, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    file, folder = misread
    words = ["--steps", "1", "--batch-size", "8", "--workers", "0", "--precision", "fp32", "--compile", "off"]
    assert main(["train", "--from", str(file), "--data", str(folder), "--out", "run", *words]) == 0
    record = [json.loads(line) for line in (tmp_path / "run" / "record.jsonl").read_text().splitlines()]
    messages = [line["message"] for line in record if line["kind"] == "warning"]
    assert sum("agree with a plain network" in message for message in messages) == 1


def test_a_network_that_no_model_file_holds_is_refused(photographs, tmp_path, capsys):
    model = seen_network(TRAINED_ON, pool=nn.AvgPool2d(3, 2, 1), **PHOTOGRAPHS, **IMAGENET)
    torch.save(model.state_dict(), tmp_path / "a.pth")
    words = ["inspect", "a.pth", "--data", photographs, "--image-size", "16", "--save", "b", "--classes", *"abcdefghij"]
    words[1], words[7] = tmp_path / "a.pth", tmp_path / "b.safetensors"
    assert main([*map(str, words)]) == 2
    assert "average pool in the stem" in capsys.readouterr().err
    assert not (tmp_path / "b.safetensors").exists()


def test_another_order_or_epsilon_computes_what_the_original_does(tmp_path):
    original = seen_network(TRAINED_ON, **HALF)
    torch.save(original.state_dict(), tmp_path / "a.pth")
    for module in original.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
    imported = import_weights(tmp_path / "a.pth", AssumptionOverrides(channel_order="bgr", bn_epsilon=1e-3)).model
    images = torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        assert torch.allclose(imported(images), original(images.flip(1)), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not (SHARED / "weights").exists(), reason="shared/data/weights is missing")
@pytest.mark.skipif(not (SHARED / "cifar10").exists(), reason="shared/data/cifar10 is missing")
def test_published_weights_show_their_assumptions():
    found = check_weights(SHARED / "weights" / "resnet20-12fca82f.th", str(SHARED / "cifar10")).decided
    assert (found["shortcut"], found["zero_channels"], found["channel_order"]) == ("pad", "split", "RGB")
    assert found["normalisation"].name == "ImageNet"
    assert found["subsampling"] == "stride"
