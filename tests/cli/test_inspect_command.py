"""`resnetlab inspect`: text output, JSON output, and the model files it writes."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from resnetlab.cli import inspect
from resnetlab.cli.main import main, parse
from resnetlab.config import ConfigError, Preprocessing
from resnetlab.data.transforms import normalise
from resnetlab.models.model_file import ModelCard, load_model, save_model
from resnetlab.models.zoo import build_model

from conftest import resnetlab

MEAN_STD = ("--mean", ".485", ".456", ".406", "--std", ".229", ".224", ".225")


def run(*words):
    return inspect.run(parse(inspect.Options, "inspect", [*map(str, words)]))


def run_json(capsys, *words):
    assert run(*words, "--json") == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint like a published one, and its network."""
    model = build_model("resnet20", generator=torch.Generator().manual_seed(0)).eval()
    for _ in range(2):
        model.train()(torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1)))
    path = tmp_path / "net.pth"
    state = {f"module.{key}": tensor for key, tensor in model.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 12, "best": 91.5, "arch": "resnet20"}, path)
    return path, model.eval()


def test_text_output(checkpoint, capsys):
    path, _ = checkpoint
    assert run(path) == 0
    out = capsys.readouterr().out
    assert (
        out
        == f"""\
{path}: a PyTorch checkpoint, 116 tensors under state_dict
network  resnet20: 20 layers, 269,722 parameters
         residual, option A: identity and zero channels, no weights
         basic blocks 3 3 3 of 16 32 64 channels
         3x3 stem; 3 channels in, 10 classes out
keys     torchvision or timm
metadata epoch 12
metadata best 91.5
metadata arch resnet20
assumed  plain or residual: residual (option A), the usual network; a plain one
           has the same tensors. Otherwise: --shortcut none
         option A's zero channels: behind the others, as in resnetlab.
           Otherwise: --zero-channels split
         option A's subsampling: every second position, no average, as in the
           paper
         stem: stride 1, no pool, as in the paper
         map: halved by each later stage, averaged at the end, as in the paper
         ReLU: after each BN but the last of a block, and after the addition, as
           in the paper
         epsilon of BN: 1e-5, PyTorch's default. Otherwise: --bn-epsilon 1e-3
         channels: RGB, the usual convention. Otherwise: --channel-order bgr
"""
    )


def test_the_saved_model_file_computes_the_same(checkpoint, tmp_path, capsys):
    path, model = checkpoint
    out = tmp_path / "new" / "net.safetensors"
    assert run(path, "--save", out, "--classes", "cifar10", *MEAN_STD) == 0
    printed = capsys.readouterr().out
    assert printed.endswith(f"model file: {out}\n")
    assert "classes  airplane, automobile, bird" in printed
    assert "images   32 pixels; mean 0.485 0.456 0.406, deviation 0.229 0.224 0.225\n" in printed
    loaded, card = load_model(out)
    assert card.preprocessing == Preprocessing(32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert card.classes[:2] == ("airplane", "automobile")
    origin = card.provenance["converted_from"]
    assert (origin["file"], origin["metadata"]["epoch"], len(origin["sha256"])) == ("net.pth", 12, 64)
    assert origin["assumed"]["option A's zero channels"] == "behind the others"
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))


@pytest.mark.parametrize(
    ("origin", "line"),
    [
        ({"key_format": "akamaster"}, "from     converted from net.th (akamaster)\n"),
        ({"layout": "akamaster"}, "from     converted from net.th (akamaster)\n"),  # as older versions wrote it
        ({}, "from     converted from net.th\n"),
    ],
)
def test_the_key_format_of_a_converted_file_is_printed(checkpoint, tmp_path, capsys, origin, line):
    _, model = checkpoint
    names = tuple(f"class {number}" for number in range(model.config.num_classes))
    provenance = {"converted_from": {"file": "net.th", **origin}}
    prepared = Preprocessing(32, (0.5,) * 3, (0.25,) * 3)
    save_model(tmp_path / "net.safetensors", model, ModelCard(model.config, names, prepared, provenance=provenance))
    assert run(tmp_path / "net.safetensors") == 0
    assert line in capsys.readouterr().out


def test_a_model_file_is_described_from_its_card(checkpoint, tmp_path, capsys):
    _, model = checkpoint
    path = tmp_path / "model.safetensors"
    config = {"data": {"name": "pets"}, "recipe": {"name": "fast"}, "seed": 3}
    provenance = {"config": config, "versions": {"torch": "9.9"}}
    prepared = Preprocessing(24, (0.5,) * 3, (0.25,) * 3, crop_ratio=0.75)
    error = {"test_error_pct": 8.25, "val_error_pct": None}
    card = ModelCard(model.config, tuple("abcdefghij"), prepared, provenance=provenance, error=error)
    save_model(path, model, card)
    assert run(path) == 0
    assert (
        capsys.readouterr().out
        == f"""\
{path}: a model file of resnetlab
network  resnet20: 20 layers, 269,722 parameters
         residual, option A: identity and zero channels, no weights
         basic blocks 3 3 3 of 16 32 64 channels
         3x3 stem; 3 channels in, 10 classes out
classes  a, b, c, d, e, f, g, h, i, j
images   24 pixels, the centre 0.75 of the shorter side; mean 0.5 0.5 0.5,
           deviation 0.25 0.25 0.25
error    test 8.25 %
from     trained on pets, recipe fast, seed 3; torch 9.9
"""
    )
    result = run_json(capsys, tmp_path)  # as a run directory
    assert result["error"] == {"test_error_pct": 8.25, "val_error_pct": None}
    assert (result["network"]["family"], result["network"]["depth"]) == ("residual", 20)
    assert result["has_checksums"] is True
    state = load_file(path)
    with safe_open(path, framework="pt") as file:
        older = {"resnetlab": file.metadata()["resnetlab"]}
    save_file(state, path, older)
    assert run(path) == 0
    assert "SHA-256  none: written by an older version" in capsys.readouterr().out
    assert run_json(capsys, path)["has_checksums"] is False
    save_file(state, path, {"resnetlab": json.dumps({"format": 99})})
    with pytest.raises(ConfigError, match="newer resnetlab"):  # it is not treated as published weights
        run(path)


def test_a_model_file_gets_other_class_names(checkpoint, tmp_path, capsys):
    """`evaluate` recommends this if the folders of the data have other names."""
    _, model = checkpoint
    path, out = tmp_path / "a.safetensors", tmp_path / "new" / "b.safetensors"
    prepared = Preprocessing(24, (0.5,) * 3, (0.25,) * 3)
    card = ModelCard(
        model.config, tuple("abcdefghij"), prepared, provenance={"seed": 3}, error={"test_error_pct": 8.25}
    )
    save_model(path, model, card)
    for words, message in [
        ((), "already; leave --save out, or add --classes with 10 other names"),
        (("--classes", *"abc"), "has 3 names, and the network has 10 classes"),
        (("--classes", *"abcdefghii"), "--classes has 'i' for 2 of the classes; give each class its own name"),
        (("--classes", "cifar10", *MEAN_STD), "and its metadata are complete; leave --mean out"),
        (("--classes", "cifar10", "--shortcut", "none"), "and its metadata are complete; leave --shortcut out"),
    ]:
        with pytest.raises(ConfigError, match=message):
            run(path, "--save", out, *words)
        assert not out.exists()
    run(path, "--save", out, "--classes", "cifar10")
    printed = capsys.readouterr().out
    assert "classes  airplane, automobile, bird" in printed
    assert printed.endswith(f"model file: {out}\n")
    loaded, renamed = load_model(out)
    assert renamed.classes[:2] == ("airplane", "automobile")
    assert renamed.provenance == {"seed": 3, "classes_before": list("abcdefghij")}
    assert (renamed.preprocessing, renamed.error) == (card.preprocessing, card.error)
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in loaded.state_dict().items())


def test_a_single_output_is_reported(tmp_path, capsys):
    torch.save(build_model("resnet8", 1).state_dict(), tmp_path / "net.pth")
    run(tmp_path / "net.pth")
    assert "one output, as for a yes-or-no network" in capsys.readouterr().out


def test_json_of_published_weights(checkpoint, tmp_path, capsys):
    path, _ = checkpoint
    result = run_json(capsys, path)
    assert result["kind"] == "a PyTorch checkpoint"
    assert (result["num_tensors"], result["state_dict_key"]) == (116, "state_dict")
    assert result["metadata"] == {"epoch": 12, "best": 91.5, "arch": "resnet20"}
    network = result["network"]
    assert network["stage_blocks"] == [3, 3, 3]
    assert (network["family"], network["shortcut"], network["params"]) == ("residual", "pad", 269_722)
    assert result["assumptions"][0]["other_option"] == "--shortcut none"
    saving = ("--save", tmp_path / "a.safetensors", "--classes", *"abcdefghij", *MEAN_STD)
    result = run_json(capsys, path, "--shortcut", "none", *saving)
    assert (result["network"]["family"], result["network"]["name"]) == ("plain", "plain20")
    assert result["assumptions"][0]["reason"] == "given by the user"
    assert result["out"] == str(tmp_path / "a.safetensors")
    assert load_model(result["out"])[0].config.shortcut == "none"


def test_an_imagenet_network_gets_the_usual_preprocessing(tmp_path, capsys):
    torch.save(build_model("resnet18", 3).state_dict(), tmp_path / "a.pth")
    (tmp_path / "names.txt").write_text("tabby cat\nPersian cat\n\nhot dog\n")
    words = ("--classes", tmp_path / "names.txt", "--mean", 123.675, 116.28, 103.53, "--std", 58.395, 57.12, 57.375)
    run(tmp_path / "a.pth", "--save", tmp_path / "a.safetensors", *words)
    card = load_model(tmp_path / "a.safetensors")[1]
    assert card.classes == ("tabby cat", "Persian cat", "hot dog")
    assert (card.preprocessing.image_size, card.preprocessing.crop_ratio) == (224, 0.875)
    assert card.preprocessing.mean == pytest.approx((0.485, 0.456, 0.406))
    assert card.preprocessing.std == pytest.approx((0.229, 0.224, 0.225))
    assert resizing(card.preprocessing) == ("torchvision", "bilinear", "crop", "ignore")
    printed = " ".join(capsys.readouterr().out.split())
    assert "224 pixels, the centre 0.875 of the shorter side, rule of torchvision; mean 0.485" in printed
    assert "resizing is assumed as for torchvision's V1 weights (timm: --resize-rule timm" in printed
    assert printed.split("0.95): ")[1].startswith("--resize-rule torchvision --interpolation bilinear --fit crop")
    more = ("--image-size", 160, 96, "--crop-ratio", 1, "--resize-rule", "timm", "--interpolation", "bicubic")
    run(tmp_path / "a.pth", "--save", tmp_path / "b.safetensors", *words, *more, "--fit", "pad")
    card = load_model(tmp_path / "b.safetensors")[1]
    assert (card.preprocessing.input_size, card.preprocessing.crop_ratio) == ((160, 96), 1)
    assert resizing(card.preprocessing) == ("timm", "bicubic", "pad", "ignore")
    printed = capsys.readouterr().out
    assert "images   160 x 96 pixels, bicubic, rule of timm, fit pad; mean" in printed
    assert "assumed as" not in printed


def resizing(preprocessing):
    return (
        preprocessing.resize_rule,
        preprocessing.interpolation,
        preprocessing.fit,
        preprocessing.color_profiles,
    )


def test_a_network_for_small_images_keeps_the_default_rule(checkpoint, tmp_path, capsys):
    path, _ = checkpoint
    out = tmp_path / "a.safetensors"
    run(path, "--save", out, "--classes", "cifar10", *MEAN_STD, "--image-size", 32)
    card = load_model(out)[1]
    assert card.preprocessing == Preprocessing(32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert "resizing is assumed" not in capsys.readouterr().out


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("full", [1, 255])
def test_a_mean_for_each_pixel(checkpoint, tmp_path, capsys, full, last):
    path, _ = checkpoint
    mean = np.random.default_rng(0).uniform(0.1, 0.9, (3, 24, 24))
    np.save(tmp_path / "mean.npy", ((mean.transpose(1, 2, 0) if last else mean) * full).astype(np.float32))
    out = tmp_path / "a.safetensors"
    run(path, "--save", out, "--classes", "cifar10", "--pixel-mean", tmp_path / "mean.npy")
    printed = capsys.readouterr().out
    assert ("note     values above 1 are for pixels from 0 to 255: mean divided by 255" in printed) == (full == 255)
    assert "images   24 pixels; a mean for each pixel, deviation 1 1 1\n" in printed
    prepared = load_model(out)[1].preprocessing
    pixels = torch.randint(256, (2, 3, 24, 24), dtype=torch.uint8)
    expected = pixels.double() / 255 - torch.from_numpy(mean)
    torch.testing.assert_close(normalise(pixels, prepared).double(), expected, rtol=0, atol=1e-6)


def test_wrong_calls_are_refused(checkpoint, tmp_path):
    path, model = checkpoint
    out = tmp_path / "a.safetensors"
    np.save(tmp_path / "mean.npy", np.zeros((3, 24, 24)))
    saving, named = ("--save", out), ("--classes", "cifar10")
    nine = ("--classes", *"abcdefghi")
    three = (0.5,) * 3
    for words, message in [
        (("--mean", 0.5), "--mean requires --save FILE, the model file to write"),
        (("--data-root", tmp_path), "--data-root requires --data; add it, or leave --data-root out"),
        (("--image-size", 32), "--image-size requires --save FILE"),
        (("--data", "digits", "--image-size", 8, 16, 4), "--image-size must be a side in pixels, .* not 8 16 4"),
        (("--data", "digits", "--image-size", 0), "--image-size must be a side in pixels, .* not 0"),
        (("--data", "digits", "--image-size", 8, 16), "--data tries square inputs; give one side"),
        (("--data", "digits", "--mean", *three), "--mean requires --std; add it, or leave --mean out"),
        (("--data", "digits", "--std", *three), "--std requires --mean; add it, or leave --std out"),
        ((*saving,), r"add --classes \(10 names, .*; --mean \(3 values\) or --pixel-mean FILE.npy; --std \(3 values\)"),
        ((*saving, *MEAN_STD), r"add --classes \(10 names, a file of them, or a data set such as cifar10\)$"),
        ((*saving, *named), r"add --mean \(3 values\) or"),
        ((*saving, *named, "--mean", *three), r"add --std \(3 values\)$"),
        ((*saving, *nine, *MEAN_STD), "--classes has 9 names, and the network has 10 classes"),
        ((*saving, "--classes", "cifar100", *MEAN_STD), "--classes cifar100 has 100 names"),
        ((*saving, "--classes", "cifar", *MEAN_STD), "neither a file nor a known data set; did you mean cifar10"),
        ((*saving, *named, "--mean", 0.5, "--std", *three), "--mean has 1 values, and the network reads 3 channels"),
        ((*saving, *named, "--mean", 120, 120, 120, "--std", *three), "mean and std are on two scales"),
        ((*saving, *named, "--mean", *three, "--std", 58, 58, 58), "mean and std are on two scales"),
        ((*saving, *named, "--mean", 300, 0, 0, "--std", 58, 58, 58), "--mean must be from 0 to 1"),
        ((*saving, *named, "--mean", "nan", 0, 0, "--std", *three), "--mean must be from 0 to 1"),
        ((*saving, *named, "--mean", *three, "--std", 0, 1, 1), "std must be above 0"),
        ((*saving, *named, *MEAN_STD, "--pixel-mean", "mean.npy"), "give --mean .* or --pixel-mean .*, not both"),
        (
            (*saving, *named, "--pixel-mean", tmp_path / "mean.npy", "--image-size", 32),
            "mean.npy has 24 x 24 pixels, and --image-size is 32",
        ),
        ((*saving, *named, *MEAN_STD, "--crop-ratio", 2), "crop_ratio must be above 0"),
        ((*saving, *named, *MEAN_STD, "--image-size", 0), "--image-size must be a side in pixels, .* not 0"),
        ((*saving, *named, *MEAN_STD, "--image-size", 8, 8, 8), "--image-size must be a side in pixels, .* not 8 8 8"),
        (("--save", tmp_path / "a.onnx"), r"a model file is safetensors, and \.onnx .*; name it .*/a\.safetensors$"),
        (("--save", path / "x", *named, *MEAN_STD), "net.pth is a file, not a folder; name a path in a folder"),
        ((*saving, "--classes", *"abcdefghia", *MEAN_STD), "--classes has 'a' for 2 of the classes"),
        ((*saving, "--classes", "e\u0301", "\u00e9", *"cdefghij", *MEAN_STD), "has '\u00e9' for 2 of the classes"),
        ((*saving, "--classes", " ", *"bcdefghij", *MEAN_STD), "has ' ' for 1 of the classes"),
        (("--save", path, *named, *MEAN_STD), "net.pth exists already; choose another --save"),
        (("--bottleneck-stride", "1x1"), "--bottleneck-stride applies to bottlenecks"),
    ]:
        with pytest.raises(ConfigError, match=message):
            run(path, *words)
        assert not out.exists()
    torch.nn.init.constant_(model.fc.bias, torch.nan)
    torch.save(model.state_dict(), path)
    with pytest.raises(ConfigError, match="10 numbers are not finite, so no model file is written"):
        run(path, *saving, *named, *MEAN_STD)
    with pytest.raises(ConfigError, match=r"nowhere\.pth: no such model file"):
        run(tmp_path / "nowhere.pth")


def test_the_command_line(checkpoint, tmp_path, capsys):
    path, _ = checkpoint
    done = resnetlab("inspect", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines()[1:])) <= 80
    (tmp_path / "text.pt").write_text("hello")
    for words, message in [
        ((tmp_path / "text.pt",), "it looks like text"),
        ((path, "--shortcuts", "none"), "did you mean --shortcut?"),
    ]:
        assert main(["inspect", *map(str, words)]) == 2
        stderr = capsys.readouterr().err
        assert message in stderr
        assert len(stderr.splitlines()) == 1
