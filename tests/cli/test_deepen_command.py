"""`resnetlab deepen`: its output, and the model files it writes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from resnetlab.cli import deepen
from resnetlab.cli.main import parse
from resnetlab.config import ConfigError, DataConfig, Preprocessing
from resnetlab.models import deepen as deepen_module
from resnetlab.models.model_file import ModelCard, load_model, save_model
from resnetlab.models.zoo import build_model

GREY = Preprocessing(8, (0.305,), (0.376,))
COLOUR = Preprocessing(8, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def write_model(path, name, preprocessing=GREY, **changes):
    """Write a model file whose running statistics are not the initial ones."""
    generator = torch.Generator().manual_seed(0)
    channels = len(preprocessing.mean)
    model = build_model(name, 10, generator=generator, in_channels=channels, **changes)
    for _ in range(3):
        model.train()(torch.randn(16, channels, 8, 8, generator=generator))
    card = ModelCard(
        model.config, tuple("0123456789"), preprocessing, provenance={"seed": 7}, error={"test_error_pct": 2.5}
    )
    save_model(path, model.eval(), card)
    return model, card


def run(*words):
    return deepen.run(parse(deepen.Options, "deepen", [*map(str, words)]))


def test_the_model_file_of_a_deeper_network(tmp_path, capsys):
    model, card = write_model(tmp_path / "small.safetensors", "resnet8")
    out = tmp_path / "new" / "deep.safetensors"
    assert run(tmp_path / "small.safetensors", "--to", 14, "--out", out) == 0
    assert capsys.readouterr().out == (
        "resnet14: 14 layers (from 8), 172,218 parameters (from 75,002)\n"
        "largest difference of logits: 0, on 256 random images\n"
        f"model file: {out}\n"
    )
    deeper, read = load_model(out)
    assert deeper.config.stage_blocks == (2, 2, 2)
    source = {"depth": 8, "blocks": [1, 1, 1], "file": "small.safetensors", "max_logit_difference": 0.0}
    assert read == replace(card, model=deeper.config, provenance={"seed": 7, "deepened_from": source})
    images = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(deeper(images), model(images))


def test_provenance_after_deepening_twice(tmp_path):
    write_model(tmp_path / "0.safetensors", "resnet8")
    run(tmp_path / "0.safetensors", "--to", 14, "--out", tmp_path / "1.safetensors")
    run(tmp_path / "1.safetensors", "--blocks", 2, 3, 2, "--out", tmp_path / "2.safetensors")
    deeper, card = load_model(tmp_path / "2.safetensors")
    assert (deeper.config.name, deeper.config.depth) == ("custom", 16)
    source = card.provenance["deepened_from"]
    assert (source["depth"], source["deepened_from"]["depth"]) == (14, 8)


def test_plain_is_another_function_in_training_mode_until_calibrated(tmp_path, capsys):
    model, _ = write_model(tmp_path / "plain.safetensors", "plain8")
    differences = {}
    for name, more, words in [
        ("uncalibrated", (), "another function until its BN is calibrated; give --data"),
        (
            "calibrated",
            ("--data", "digits"),
            "its BN is calibrated on these: in training mode it is about the same function",
        ),
    ]:
        out = tmp_path / f"{name}.safetensors"
        run(tmp_path / "plain.safetensors", "--to", 20, "--out", out, *more)
        printed = capsys.readouterr().out
        assert words in printed
        assert max(map(len, printed.replace(str(out), out.name).splitlines())) <= 80
        images = deepen.training_images(load_model(out)[1], DataConfig("digits"))
        differences[name] = (model.train()(images) - load_model(out)[0].train()(images)).abs().max().item()
    assert "on 256 training images of digits" in printed
    assert differences["calibrated"] < 1e-4 < 0.1 < differences["uncalibrated"]


def test_training_images_are_of_all_classes_and_preprocessed(tmp_path):
    _, card = write_model(tmp_path / "model.safetensors", "resnet8")
    images = deepen.training_images(card, DataConfig("digits"))
    assert images.shape == (256, 1, 8, 8)
    assert torch.equal(images, deepen.training_images(card, DataConfig("digits")))
    assert images.mean().item() == pytest.approx(0, abs=0.05)
    assert images.mean((1, 2, 3)).std().item() > 0.05
    random = deepen.random_images(card)
    assert random.shape == (256, 1, 8, 8)
    assert (random.min().item(), random.max().item()) == pytest.approx((-0.305 / 0.376, 0.695 / 0.376), abs=1e-5)
    large = replace(card, preprocessing=replace(GREY, image_size=224))
    assert deepen.random_images(large).shape == (83, 1, 224, 224)


def test_calibration_on_a_folder_of_images(tmp_path, capsys):
    write_model(tmp_path / "model.safetensors", "plain8", COLOUR)
    rng = np.random.default_rng(0)
    for number in range(24):
        path = tmp_path / "pets" / ("cat" if number % 2 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (12, 10 + number % 3, 3), dtype=np.uint8)).save(path)
    words = ("--to", 14, "--data", tmp_path / "pets", "--out", tmp_path / "deep.safetensors", "--json")
    assert run(tmp_path / "model.safetensors", *words) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["images"] == "20 training images of pets"  # 10 % of each class, and one at least, for val and test
    assert result["training_mode"] == "calibrated"
    assert 0 <= result["max_logit_difference"] < 1e-5 * result["largest_logit"]


def test_json(tmp_path, capsys):
    write_model(tmp_path / "model.safetensors", "resnet8")
    out = tmp_path / "deep.safetensors"
    run(tmp_path / "model.safetensors", "--to", 14, "--out", out, "--json")
    result = json.loads(capsys.readouterr().out)
    assert result.pop("largest_logit") > 0
    small = {"name": "resnet8", "depth": 8, "blocks": [1, 1, 1], "params": 75_002}
    assert result == {
        "out": str(out),
        "name": "resnet14",
        "depth": 14,
        "blocks": [2, 2, 2],
        "params": 172_218,
        "deepened_from": {"file": str(tmp_path / "model.safetensors"), **small},
        "max_logit_difference": 0.0,
        "images": "256 random images",
        "training_mode": "same",
    }


def test_wrong_calls_are_refused(tmp_path):
    path, out = tmp_path / "model.safetensors", tmp_path / "deep.safetensors"
    write_model(path, "resnet8")
    for words, message in [
        (("--to", 14, "--out", path), "model.safetensors exists already; choose another --out, or delete it"),
        (("--to", 14, "--out", out.with_suffix(".PT2")), r"is another format; name it .*/deep[.]safetensors$"),
        (("--to", 14, "--out", out.with_suffix(".onnx")), r"is another format; name it .*/deep[.]safetensors$"),
        (("--to", 14, "--out", path / "new" / "x"), "model.safetensors is a file, not a folder; name a path in a fold"),
        (("--to", 14), "give the model file to write: --out FILE"),
        (("--out", out), "give the depth in one of two ways: --to 56, or --blocks 9 9 9"),
        (("--to", 14, "--blocks", 2, 2, 2, "--out", out), "give the depth in one of two ways"),
        (("--to", 15, "--out", out), "depth 15 is not of the form 6n[+]2; the nearest are 14 and 20"),
        (("--blocks", 2, 2, "--out", out), "resnet8 has 3; give 3 numbers"),
        (("--to", 14, "--data", "digit", "--out", out), "did you mean digits[?]"),
        (("--to", 14, "--data-root", tmp_path, "--out", out), "--data-root requires --data; add it, or leave"),
    ]:
        with pytest.raises(ConfigError, match=message):
            run(path, *words)
    with pytest.raises(ConfigError, match=r"nowhere\.safetensors: no such model file"):
        run(tmp_path / "nowhere.safetensors", "--to", 14, "--out", out)
    for number in range(40):
        image_path = tmp_path / "pets" / ("cat" if number % 2 else "dog") / f"{number}.png"
        image_path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), number, dtype=np.uint8)).save(image_path)
    write_model(path, "resnet8", Preprocessing(8, (0.3,) * 2, (0.38,) * 2))
    with pytest.raises(ConfigError, match="pets has 3-channel images, and resnet8 reads 2 channels"):
        run(path, "--to", 14, "--data", tmp_path / "pets", "--out", out)
    assert not out.exists()


def test_another_function_is_never_written(tmp_path, monkeypatch):
    path, out = tmp_path / "model.safetensors", tmp_path / "deep.safetensors"
    model, card = write_model(path, "resnet8")
    with monkeypatch.context() as patch:
        patch.setattr(deepen_module, "make_identity", lambda block, moments: None)
        with pytest.raises(RuntimeError, match=r"logits differ by .* no file was written"):
            run(path, "--to", 14, "--out", out)
    torch.nn.init.constant_(model.fc.bias, torch.nan)
    save_model(path, model, card)
    with pytest.raises(RuntimeError, match="logits differ by nan, and the largest is nan"):
        run(path, "--to", 14, "--out", out)
    assert not out.exists()
