"""`--color-profiles`: training, evaluation, prediction and export treat an image alike."""

import dataclasses
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from resnetlab.cli.main import main
from resnetlab.config import DataConfig, Preprocessing, RunConfig
from resnetlab.data.eval_dataset import open_eval_dataset, original_images
from resnetlab.data.images.encoded import EncodedImages
from resnetlab.data.open_dataset import open_data
from resnetlab.data.shards.pack import PackOptions, pack_dataset
from resnetlab.inference.predictor import load
from resnetlab.models.model_card import read_card
from resnetlab.serialization import from_json, to_json

from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
from icc_profiles import convert, rgb_profile

PREPROCESSING = Preprocessing(16, (0.5,) * 3, (0.25,) * 3)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two classes of 12 images that a viewer shows in sRGB colours, with ProPhoto profiles."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for label, name in enumerate(("a", "b")):
        (root / name).mkdir()
        for number in range(12):
            pixels = (rng.integers(0, 60, (16, 16, 3)) + 60 + 90 * label).astype(np.uint8)
            image = Image.fromarray(convert(pixels, "sRGB", "ProPhoto RGB"))
            image.save(root / name / f"{number:02}.png", icc_profile=rgb_profile("ProPhoto RGB"))
    return root


@pytest.fixture(scope="module")
def models(data, tmp_path_factory):
    """A run directory for each value of the option."""
    out = tmp_path_factory.mktemp("runs")
    for value in ("apply", "ignore"):
        words = ["train", "--data", str(data), "--model", "resnet8", "--batch-size", "8", "--steps", "2"]
        assert main([*words, "--color-profiles", value, "--out", str(out / value)]) == 0
    return out


def test_the_model_file_stores_the_choice(models, data):
    image = data / "a" / "00.png"
    for value, other in (("apply", "ignore"), ("ignore", "apply")):
        assert read_card(models / value / "model.safetensors").preprocessing.color_profiles == value
        view = load(models / value).preprocess(image)
        assert np.array_equal(load(models / value).preprocess(Image.open(image)), view)
        assert view.tobytes() in resident_images(data, value)
        assert view.tobytes() not in resident_images(data, other)


def resident_images(data, value):
    splits = open_data(DataConfig(str(data), color_profiles=value)).splits.values()
    images = [split.images for split in splits]
    return {one.tobytes() for part in images if isinstance(part, torch.Tensor) for one in part.movedim(1, -1).numpy()}


def test_predict_follows_the_file_unless_told_otherwise(models, data, capsys):
    image = str(data / "a" / "00.png")

    def probability(model, *words):
        assert main(["predict", str(models / model), image, "--json", *words]) == 0
        return json.loads(capsys.readouterr().out)["top"]

    assert probability("ignore") == probability("ignore", "--color-profiles", "ignore")
    assert probability("ignore") != probability("ignore", "--color-profiles", "apply")
    assert probability("apply") == probability("apply", "--color-profiles", "apply")


def test_evaluation_follows_the_network_unless_told_otherwise(data):
    ignoring = dataclasses.replace(PREPROCESSING, color_profiles="ignore")
    pixels = {}
    for name, config, preprocessing in (
        ("apply", DataConfig(str(data)), PREPROCESSING),
        ("ignore", DataConfig(str(data)), ignoring),
        ("overridden", DataConfig(str(data), color_profiles="apply"), ignoring),
    ):
        dataset = open_eval_dataset(config, preprocessing, "all")
        pixels[name] = dataset.split.images
        originals = original_images(dataset)
        assert isinstance(originals, EncodedImages)
        assert originals.view.color_profiles == ("ignore" if name == "ignore" else "apply")
    assert not np.array_equal(pixels["apply"].sum((1, 2, 3)), pixels["ignore"].sum((1, 2, 3)))
    assert np.array_equal(sorted(pixels["apply"].sum((1, 2, 3))), sorted(pixels["overridden"].sum((1, 2, 3))))


def test_images_that_stay_encoded_follow_it_too(data):
    for value in ("apply", "ignore"):
        config = DataConfig(str(data), image_size=8, color_profiles=value)
        images = open_data(config, keep_encoded=True).train.images
        assert isinstance(images, EncodedImages)
        assert images.view.color_profiles == value


def test_files_without_the_field_apply_profiles():
    values = to_json(PREPROCESSING)
    del values["color_profiles"]
    assert from_json(Preprocessing, values).color_profiles == "apply"
    config = to_json(RunConfig())
    del config["data"]["color_profiles"]
    assert from_json(RunConfig, config) == RunConfig()


def test_packing_converts_what_it_resizes(data, tmp_path):
    sums = {}
    for value in ("apply", "ignore"):
        options = PackOptions(max_side=8, shard_mib=1, color_profiles=value)
        pack_dataset(DataConfig(str(data)), tmp_path / value, options)
        images = open_data(DataConfig(str(tmp_path / value))).train.images
        assert isinstance(images, torch.Tensor)
        sums[value] = images.double().mean()
    assert abs(sums["apply"] - sums["ignore"]) > 3


def test_data_check_counts_profiles(data, tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.new("RGB", (8, 8), (number, 9, 9)).save(tmp_path / name / f"{number}.png", icc_profile=b"junk" * 99)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "b" / "2.png", icc_profile=rgb_profile("sRGB"))
    assert main(["data", "check", str(data)]) == 0
    assert "all: colour profiles: 24 ProPhoto RGB" in capsys.readouterr().out
    assert main(["data", "check", str(tmp_path), "--json"]) == 0
    splits = json.loads(capsys.readouterr().out)["splits"]
    assert splits["all"]["color_profiles"] == {"unusable": 4, "sRGB": 1}


@pytest.mark.parametrize(
    ("command", "number"),
    [
        (("evaluate", "--split", "all"), lambda output: output["loss"]),
        (("lesion", "--split", "all", "--repeats", "1", "--paths", "2"), lambda output: output["networks"][0]["paths"]),
        (("diagnose",), lambda output: output["signals"][0]["loss"]),
    ],
)
def test_the_training_data_are_read_as_the_options_say(models, data, tmp_path, capsys, monkeypatch, command, number):
    monkeypatch.setattr("resnetlab.study.figures.all_figures.draw_layer_stats", lambda *_: [])
    monkeypatch.setattr("resnetlab.evaluation.lesions.lesion_figures.draw_lesions", lambda *_: [])
    network = str(models / "apply" / "model.safetensors")

    def measured(*words):
        assert main([*command, network, *words, "--json"]) == 0
        return number(json.loads(capsys.readouterr().out))

    assert measured("--color-profiles", "apply") == measured() != measured("--color-profiles", "ignore")
    assert measured("--color-profiles", "ignore") == measured("--color-profiles", "ignore", "--data", str(data))
    if "--split" in command:  # the images that training held out follow from the pixels
        held_out = [word for word in command if word not in ("--split", "all")]
        assert main([*held_out, network, "--color-profiles", "ignore"]) == 2
        assert "is read otherwise, so the images that training held out cannot be drawn" in capsys.readouterr().err
    assert main([*command, network, "--image-column", "pixels"]) == 2
    assert "--image-column is for parquet files" in capsys.readouterr().err
    assert main([*command, network, "--split-folders", "train=nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err
