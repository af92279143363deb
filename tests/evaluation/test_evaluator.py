"""What a model file is judged on: the same numbers as the run's own, each sample once, labels that follow names."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import resnetlab
from resnetlab.config import ConfigError, DataConfig, Recipe, RunConfig
from resnetlab.evaluation.bn_recalibration import recalibrate_bn
from resnetlab.evaluation.class_matching import match_classes
from resnetlab.evaluation.evaluator import EvaluationOptions, data_config, evaluate_members, open_members
from resnetlab.evaluation.metrics import compute_metrics
from resnetlab.evaluation.predictions import merge_predictions
from resnetlab.models.model_file import load_model, save_model
from resnetlab.models.resnet import ResNet

from conftest import resnetlab as run

COLOURS = {"amber": (230, 160, 20), "blue": (30, 60, 220), "crimson": (200, 20, 60), "dun": (150, 130, 100)}
RECIPE = Recipe(epochs=1, batch_size=8, lr=0.05)


def photos(root: Path, splits=("train", "val", "test"), sizes=((40, 40), (36, 60), (50, 33))) -> Path:
    """Noisy pictures of a colour each, of several sizes; a class folder each."""
    chance = np.random.default_rng(0)
    for split in splits:
        for name, colour in COLOURS.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(8 if split == "train" else 5):
                height, width = sizes[number % len(sizes)]
                noise = chance.normal(0, 70, (height, width, 3))
                Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Runs on images that are resident, that stay encoded, that hold parts out, and on digits: data and directory."""
    place = tmp_path_factory.mktemp("examined")
    folder = photos(place / "photos")
    unsplit = photos(place / "unsplit", splits=("",), sizes=((24, 24),))
    wide = resnetlab.model_config("resnet8", stage_channels=(8, 8, 8))
    runs = {
        "resident": (DataConfig(str(folder), image_size=24), RECIPE),
        "encoded": (DataConfig(str(folder), image_size=24), dataclasses.replace(RECIPE, crop="resized")),
        "held-out": (DataConfig(str(unsplit), split_seed=3), RECIPE),
        "digits": (DataConfig("digits"), dataclasses.replace(RECIPE, normalise="pixel")),
    }
    for name, (data, recipe) in runs.items():
        resnetlab.fit(RunConfig(wide, data, recipe), place / name)
    return place


def judged(*files, data=None, rank=0, of=1, **terms):
    agreed = EvaluationOptions(**terms)
    members = open_members([Path(file) for file in files], data, agreed, None)
    return compute_metrics(evaluate_members(members, agreed, rank=rank, of=of), members[0].card.classes)


def test_in_python(made):
    assert resnetlab.evaluate(made / "resident").as_json() == judged(made / "resident").as_json()
    pair = resnetlab.evaluate([made / "resident", str(made / "encoded")], str(made / "photos"), split="val")
    assert pair.num_samples == 20


def last_lines(directory: Path):
    lines = [json.loads(line) for line in (directory / "record.jsonl").read_text().splitlines()]
    return lines[-1], [line for line in lines if line["kind"] == "epoch"][-1]


@pytest.mark.parametrize("name", ["resident", "encoded", "held-out", "digits"])
def test_a_reloaded_file_gives_the_run_s_own_numbers(made, tmp_path, name):
    """Errors and loss to the last bit, on every split, from a file that was written again and lies elsewhere."""
    model, card = load_model(made / name)
    save_model(tmp_path / "again.safetensors", model, card)
    result, epoch = last_lines(made / name)
    for split in ("train", "val", "test"):
        evaluation = judged(tmp_path / "again.safetensors", split=split)
        assert evaluation.top1.pct == result[f"{split}_error_pct"] == card.error[f"{split}_error_pct"]
    assert judged(tmp_path / "again.safetensors", split="val").loss == epoch["val_loss"]


def test_which_images_are_judged_if_nothing_is_said(made):
    own = judged(made / "resident")
    assert own.num_samples == 20  # test/
    assert judged(made / "held-out").num_samples == 4  # what training held out
    elsewhere = DataConfig(str(made / "photos" / "val"))
    assert judged(made / "held-out", data=elsewhere).num_samples == 20  # other images: all of them
    members = open_members([made / "held-out"], None, EvaluationOptions(split="all"), None)
    assert members[0].judged.seen_in_training
    assert not open_members([made / "held-out"], elsewhere, EvaluationOptions(), None)[0].judged.seen_in_training
    model, card = load_model(made / "digits")
    save_model(made / "bare.safetensors", model, dataclasses.replace(card, provenance={}))
    with pytest.raises(ConfigError, match="name images with --data"):
        judged(made / "bare.safetensors")


@pytest.mark.parametrize("protocol", ["one-crop", "ten-crop", "multi-scale"])
def test_every_sample_once_whatever_the_parts(made, protocol):
    terms = EvaluationOptions(protocol=protocol, sides=(24, 30) if protocol == "multi-scale" else (), split="all")
    members = open_members([made / "encoded"], None, terms, None)
    whole = evaluate_members(members, terms)
    assert whole.positions.tolist() == list(range(72))
    for of in (2, 3, 7, 100):  # 100: some have nothing to judge
        parts = [evaluate_members(members, terms, rank=rank, of=of) for rank in range(of)]
        together = merge_predictions(parts)
        assert together.positions.tolist() == list(range(72))
        assert np.array_equal(together.labels, whole.labels)
        assert np.allclose(together.loss, whole.loss, atol=1e-5)
    with pytest.raises(ValueError, match="judged twice"):
        merge_predictions([whole, parts[0]])


@pytest.mark.slow
def test_processes_of_torchrun_share_the_images(made, tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            "3",
            "-m",
            "resnetlab",
            "evaluate",
            made / "digits",
            "--split",
            "train",
            "--json",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    alone = judged(made / "digits", split="train")
    assert (said["num_samples"], said["top1_error_pct"]) == (1257, alone.top1.pct)
    assert said["confusion"] == alone.confusion.tolist()


def test_labels_follow_names(made, tmp_path):
    """Folders in another order, and folders that swap their names: the numbers follow."""
    before = judged(made / "resident")
    swapped = tmp_path / "swapped"
    shutil.copytree(made / "photos", swapped)
    for split in ("train", "val", "test"):
        (swapped / split / "amber").rename(swapped / split / "x")
        (swapped / split / "blue").rename(swapped / split / "amber")
        (swapped / split / "x").rename(swapped / split / "blue")
    after = judged(made / "resident", data=DataConfig(str(swapped)))
    assert np.array_equal(before.confusion[[1, 0, 2, 3]], after.confusion)
    model, card = load_model(made / "resident")
    turned = tmp_path / "turned.safetensors"
    order = [3, 1, 0, 2]  # the same network, its classes numbered otherwise
    with torch.no_grad():
        model.fc.weight.copy_(model.fc.weight[order].clone())
        model.fc.bias.copy_(model.fc.bias[order].clone())
    save_model(turned, model, dataclasses.replace(card, classes=tuple(card.classes[at] for at in order)))
    same = judged(turned)
    assert same.top1.pct == before.top1.pct
    assert np.array_equal(same.confusion, before.confusion[np.ix_(order, order)])
    both = judged(made / "resident", turned, protocol="ensemble")
    assert np.array_equal(both.confusion, before.confusion)


def test_classes_that_differ_are_listed(made, tmp_path):
    renamed = tmp_path / "renamed"
    shutil.copytree(made / "photos" / "test", renamed)
    (renamed / "dun").rename(renamed / "taupe")
    with pytest.raises(ConfigError, match=r"only renamed has taupe; only resident has dun"):
        judged(made / "resident", data=DataConfig(str(renamed)))
    shutil.rmtree(renamed / "taupe")
    with pytest.raises(ConfigError, match=r"only resident has dun – .*--allow-missing-classes"):
        judged(made / "resident", data=DataConfig(str(renamed)))
    some = judged(made / "resident", data=DataConfig(str(renamed)), allow_missing_classes=True)
    assert (some.num_samples, some.per_class[3].error) == (15, None)
    with pytest.raises(ConfigError, match="unsplit has 3-channel images, and resnet8 reads 1 channels"):
        judged(made / "digits", data=DataConfig(str(made / "unsplit")))


@pytest.mark.parametrize("protocol", ["one-crop", "ten-crop"])
def test_grey_images_are_three_equal_channels_to_a_colour_network(made, tmp_path, protocol):
    model, card = load_model(made / "digits")
    grey = resnetlab.evaluate(made / "digits", protocol=protocol)
    colour = resnetlab.build_model(card.model, in_channels=3)
    weights = model.state_dict()
    weights["conv1.weight"] = weights["conv1.weight"].expand(-1, 3, -1, -1) / 3
    colour.load_state_dict(weights)
    seen = card.preprocessing
    seen = dataclasses.replace(seen, mean=seen.mean * 3, std=seen.std * 3, pixel_mean=seen.pixel_mean * 3)
    save_model(
        tmp_path / "colour.safetensors", colour, dataclasses.replace(card, model=colour.config, preprocessing=seen)
    )
    assert resnetlab.evaluate(tmp_path / "colour.safetensors", protocol=protocol).loss == pytest.approx(grey.loss)


def test_names_in_two_unicode_forms_are_one():
    assert match_classes(("café", "tea"), ("tea", "cafe\N{COMBINING ACUTE ACCENT}"), "a", "b").tolist() == [1, 0]
    with pytest.raises(ConfigError, match="a has several classes called tea; give each a name of its own"):
        match_classes(("tea", "tea"), ("tea",), "a", "b")
    many = [f"class{number}" for number in range(100)]
    with pytest.raises(ConfigError, match=r"only b has x; only a has class0, .* and 92 more"):
        match_classes(many, ("x",), "a", "b")


def test_an_ensemble_of_networks_that_see_other_sizes(made, tmp_path):
    model, card = load_model(made / "resident")
    larger = dataclasses.replace(card.preprocessing, image_size=32)
    save_model(tmp_path / "larger.safetensors", model, dataclasses.replace(card, preprocessing=larger))
    pair = judged(made / "resident", tmp_path / "larger.safetensors", protocol="ensemble")
    assert pair.num_samples == 20
    alone = judged(made / "resident", made / "resident", protocol="ensemble")
    assert alone.top1.pct == judged(made / "resident").top1.pct
    model, card = load_model(made / "held-out")
    provenance = json.loads(json.dumps(card.provenance))
    provenance["config"]["data"]["split_seed"] = 4
    save_model(tmp_path / "other.safetensors", model, dataclasses.replace(card, provenance=provenance))
    with pytest.raises(ConfigError, match="different images"):
        judged(made / "held-out", tmp_path / "other.safetensors", split="test")


def test_data_that_are_named_are_split_as_in_training(made):
    _, card = load_model(made / "held-out")
    assert data_config(card, DataConfig("digits"), made).split_seed == 3
    assert data_config(card, None, made) == DataConfig(str(made / "unsplit"), split_seed=3)


def test_recalibration_is_the_mean_over_batches(made):
    members = open_members([made / "digits"], None, EvaluationOptions(split="train"), None)
    model, card, split = members[0].model, members[0].card, members[0].judged.split
    assert isinstance(model, ResNet)
    weights = {name: value.clone() for name, value in model.named_parameters()}
    heard = []
    handle = model.bn1.register_forward_pre_hook(lambda _, inputs: heard.append(inputs[0]))
    assert recalibrate_bn(model, split, card.preprocessing) == 1024  # four whole batches of 256
    handle.remove()
    mean = torch.stack([x.mean((0, 2, 3)) for x in heard]).mean(0)
    variance = torch.stack([x.transpose(0, 1).flatten(1).var(1) for x in heard]).mean(0)
    assert torch.allclose(model.state_dict()["bn1.running_mean"], mean, atol=1e-5)
    assert torch.allclose(model.state_dict()["bn1.running_var"], variance, rtol=1e-4)
    assert all(torch.equal(value, weights[name]) for name, value in model.named_parameters())
    assert not model.training
    assert model.bn1.momentum == 0.1
    (asked,) = open_members([made / "digits"], None, EvaluationOptions(recalibrate_bn=True), None)
    assert asked.recalibrated_on == 1024
    assert isinstance(asked.model, ResNet)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in asked.model.state_dict().items())
    assert judged(made / "digits", recalibrate_bn=True).loss != judged(made / "digits").loss


def test_terms_that_do_not_go_together():
    with pytest.raises(ConfigError, match="one-crop has one of its own"):
        EvaluationOptions(sides=(256,))
    with pytest.raises(ConfigError, match="takes one shorter side, not 2"):
        EvaluationOptions(protocol="ten-crop", sides=(256, 300))


@pytest.mark.slow
def test_the_command(made, tmp_path):
    done = run("evaluate", made / "resident", "--page", tmp_path / "page.html", "--protocol", "ten-crop")
    assert done.returncode == 0, done.stderr
    assert "20 images, ten crops of 24 pixels from a shorter side of 27" in " ".join(done.stdout.split())
    assert max(len(line) for line in done.stdout.splitlines() if not line.startswith("page: ")) <= 80
    assert "<html" in (tmp_path / "page.html").read_text()
    said = json.loads(run("evaluate", made / "resident", made / "encoded", "--json").stdout)
    assert said["num_samples"] == 20
    assert said["top_k"] == 4  # of four classes
    assert said["top5_error_pct"] == 0
    for words, message in {
        (): "name a model file",
        ("nowhere.safetensors",): "no such model file",
        (made / "resident", "--data", "nowhere"): "neither a known data set",
        (made / "resident", made / "encoded", "--protocol", "one-crop"): "averaged with --protocol ensemble",
        (made / "resident", "--protocl", "ten-crop"): "did you mean --protocol",
    }.items():
        failed = run("evaluate", *words)
        assert failed.returncode == 2, words
        assert message in failed.stderr
        assert failed.stderr.count("\n") == 1
