"""Evaluation of model files: the same metrics as in training, each sample once, labels matched by class name."""

import dataclasses
import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import resnetlab
from resnetlab.cli.main import main
from resnetlab.config import ConfigError, DataConfig, Recipe, RunConfig
from resnetlab.data.open_dataset import open_data
from resnetlab.evaluation.bn_recalibration import recalibrate_bn
from resnetlab.evaluation.class_matching import match_classes
from resnetlab.evaluation.evaluator import evaluate_members, open_members
from resnetlab.evaluation.member_data import resolve_data_config
from resnetlab.evaluation.metrics import compute_metrics
from resnetlab.evaluation.options import EvaluationOptions
from resnetlab.evaluation.predictions import merge_predictions
from resnetlab.evaluation.summary import evaluation_notes
from resnetlab.models.model_file import load_model, save_model
from resnetlab.models.resnet import ResNet

from conftest import resnetlab as run

COLOURS = {"amber": (230, 160, 20), "blue": (30, 60, 220), "crimson": (200, 20, 60), "dun": (150, 130, 100)}
RECIPE = Recipe(epochs=1, batch_size=8, lr=0.05)


def photos(root: Path, splits=("train", "val", "test"), sizes=((40, 40), (36, 60), (50, 33))) -> Path:
    """Write noisy images of one colour for each class, of several sizes, in class folders."""
    rng = np.random.default_rng(0)
    for split in splits:
        for name, colour in COLOURS.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(8 if split == "train" else 5):
                height, width = sizes[number % len(sizes)]
                noise = rng.normal(0, 70, (height, width, 3))
                Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Train on resident images, on encoded images, on a data set without splits, and on digits; return the folder."""
    root = tmp_path_factory.mktemp("evaluated")
    split = photos(root / "photos")
    unsplit = photos(root / "unsplit", splits=("",), sizes=((24, 24),))
    wide = resnetlab.model_config("resnet8", stage_channels=(8, 8, 8))
    runs = {
        "resident": (DataConfig(str(split), image_size=24), RECIPE),
        "encoded": (DataConfig(str(split), image_size=24), dataclasses.replace(RECIPE, crop="resized")),
        "held-out": (DataConfig(str(unsplit), split_seed=3), RECIPE),
        "digits": (DataConfig("digits"), dataclasses.replace(RECIPE, normalise="pixel")),
    }
    for name, (data, recipe) in runs.items():
        resnetlab.fit(RunConfig(wide, data, recipe), root / name)
    return root


def evaluate(*files, data=None, **fields):
    options = EvaluationOptions(**fields)
    members = open_members([Path(file) for file in files], data, options)
    return compute_metrics(evaluate_members(members, options), members[0].card.classes)


def test_public_function(folder):
    assert resnetlab.evaluate(folder / "resident").as_json() == evaluate(folder / "resident").as_json()
    pair = resnetlab.evaluate([folder / "resident", str(folder / "encoded")], str(folder / "photos"), split="val")
    assert pair.num_samples == 20


def last_lines(directory: Path):
    lines = [json.loads(line) for line in (directory / "record.jsonl").read_text().splitlines()]
    return lines[-1], [line for line in lines if line["kind"] == "epoch"][-1]


@pytest.mark.parametrize("name", ["resident", "encoded", "held-out", "digits"])
def test_a_reloaded_file_gives_the_metrics_of_the_run(folder, tmp_path, name):
    """Errors and loss are bit-identical on every split, from a file that was saved again elsewhere."""
    model, card = load_model(folder / name)
    save_model(tmp_path / "again.safetensors", model, card)
    result, epoch = last_lines(folder / name)
    for split in ("train", "val", "test"):
        evaluation = evaluate(tmp_path / "again.safetensors", split=split)
        assert evaluation.top1.pct == result[f"{split}_error_pct"] == card.error[f"{split}_error_pct"]
    assert evaluate(tmp_path / "again.safetensors", split="val").loss == epoch["val_loss"]


def test_default_data_and_split(folder):
    assert evaluate(folder / "resident").num_samples == 20  # test/
    assert evaluate(folder / "held-out").num_samples == 4  # the images that training held out
    elsewhere = DataConfig(str(folder / "photos" / "val"))
    assert evaluate(folder / "held-out", data=elsewhere).num_samples == 20  # other data: all images
    members = open_members([folder / "held-out"], None, EvaluationOptions(split="all"))
    assert members[0].dataset.seen_in_training
    assert not open_members([folder / "held-out"], elsewhere, EvaluationOptions())[0].dataset.seen_in_training
    model, card = load_model(folder / "digits")
    save_model(folder / "bare.safetensors", model, dataclasses.replace(card, provenance={}))
    with pytest.raises(ConfigError, match="name images with --data"):
        evaluate(folder / "bare.safetensors")


@pytest.mark.parametrize("protocol", ["one-crop", "ten-crop", "multi-scale"])
def test_every_sample_once_for_any_world_size(folder, protocol):
    options = EvaluationOptions(protocol=protocol, sides=(24, 30) if protocol == "multi-scale" else (), split="all")
    members = open_members([folder / "encoded"], None, options)
    whole = evaluate_members(members, options)
    assert whole.positions.tolist() == list(range(72))
    for world_size in (2, 3, 7, 100):  # 100: some ranks have no samples
        parts = [evaluate_members(members, options, rank=rank, world_size=world_size) for rank in range(world_size)]
        merged = merge_predictions(parts)
        assert merged.positions.tolist() == list(range(72))
        assert np.array_equal(merged.labels, whole.labels)
        assert np.allclose(merged.loss, whole.loss, atol=1e-5)
    with pytest.raises(ValueError, match="evaluated twice"):
        merge_predictions([whole, parts[0]])


@pytest.mark.slow
def test_processes_of_torchrun_share_the_images(folder, tmp_path):
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
            folder / "digits",
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
    output = json.loads(done.stdout)
    alone = evaluate(folder / "digits", split="train")
    assert (output["num_samples"], output["top1_error_pct"]) == (1257, alone.top1.pct)
    assert output["confusion"] == alone.confusion.tolist()


def test_classes_are_matched_by_name(folder, tmp_path):
    """Folders that swap their names, and a network with another class order."""
    before = evaluate(folder / "resident")
    swapped = tmp_path / "swapped"
    shutil.copytree(folder / "photos", swapped)
    for split in ("train", "val", "test"):
        (swapped / split / "amber").rename(swapped / split / "x")
        (swapped / split / "blue").rename(swapped / split / "amber")
        (swapped / split / "x").rename(swapped / split / "blue")
    after = evaluate(folder / "resident", data=DataConfig(str(swapped)))
    assert np.array_equal(before.confusion[[1, 0, 2, 3]], after.confusion)
    model, card = load_model(folder / "resident")
    permuted = tmp_path / "permuted.safetensors"
    order = [3, 1, 0, 2]  # the same network with its classes in another order
    with torch.no_grad():
        model.fc.weight.copy_(model.fc.weight[order].clone())
        model.fc.bias.copy_(model.fc.bias[order].clone())
    save_model(permuted, model, dataclasses.replace(card, classes=tuple(card.classes[at] for at in order)))
    same = evaluate(permuted)
    assert same.top1.pct == before.top1.pct
    assert np.array_equal(same.confusion, before.confusion[np.ix_(order, order)])
    both = evaluate(folder / "resident", permuted, protocol="ensemble")
    assert np.array_equal(both.confusion, before.confusion)


def test_differing_classes_are_listed(folder, tmp_path):
    renamed = tmp_path / "renamed"
    shutil.copytree(folder / "photos" / "test", renamed)
    (renamed / "dun").rename(renamed / "taupe")
    with pytest.raises(ConfigError, match=r"only renamed has taupe; only resident has dun"):
        evaluate(folder / "resident", data=DataConfig(str(renamed)))
    shutil.rmtree(renamed / "taupe")
    with pytest.raises(ConfigError, match=r"only resident has dun – .*--allow-missing-classes"):
        evaluate(folder / "resident", data=DataConfig(str(renamed)))
    some = evaluate(folder / "resident", data=DataConfig(str(renamed)), allow_missing_classes=True)
    assert (some.num_samples, some.per_class[3].error) == (15, None)


@pytest.mark.parametrize("protocol", ["one-crop", "ten-crop"])
def test_grey_images_are_three_equal_channels_to_a_colour_network(folder, tmp_path, protocol):
    model, card = load_model(folder / "digits")
    grey = resnetlab.evaluate(folder / "digits", protocol=protocol)
    colour = resnetlab.build_model(card.model, in_channels=3)
    weights = model.state_dict()
    weights["conv1.weight"] = weights["conv1.weight"].expand(-1, 3, -1, -1) / 3
    colour.load_state_dict(weights)
    pre = card.preprocessing
    pre = dataclasses.replace(pre, mean=pre.mean * 3, std=pre.std * 3, pixel_mean=pre.pixel_mean * 3)
    save_model(
        tmp_path / "colour.safetensors", colour, dataclasses.replace(card, model=colour.config, preprocessing=pre)
    )
    assert resnetlab.evaluate(tmp_path / "colour.safetensors", protocol=protocol).loss == pytest.approx(grey.loss)


def test_names_are_compared_in_unicode_normal_form():
    match = partial(match_classes, model_name="a", data_name="b")
    assert match(("café", "tea"), ("tea", "cafe\N{COMBINING ACUTE ACCENT}")).tolist() == [1, 0]
    with pytest.raises(ConfigError, match="a has several classes called tea; give each a unique name"):
        match(("tea", "tea"), ("tea",))
    many = [f"class{number}" for number in range(100)]
    with pytest.raises(ConfigError, match=r"only b has x; only a has class0, .* and 92 more"):
        match(many, ("x",))


def test_an_ensemble_of_networks_with_different_image_sizes(folder, tmp_path):
    model, card = load_model(folder / "resident")
    larger = dataclasses.replace(card.preprocessing, image_size=32)
    save_model(tmp_path / "larger.safetensors", model, dataclasses.replace(card, preprocessing=larger))
    pair = evaluate(folder / "resident", tmp_path / "larger.safetensors", protocol="ensemble")
    assert pair.num_samples == 20
    alone = evaluate(folder / "resident", folder / "resident", protocol="ensemble")
    assert alone.top1.pct == evaluate(folder / "resident").top1.pct
    model, card = load_model(folder / "held-out")
    provenance = json.loads(json.dumps(card.provenance))
    provenance["config"]["data"]["split_seed"] = 4
    redrawn = open_data(DataConfig(str(folder / "unsplit"), split_seed=4), preprocessing=card.preprocessing)
    provenance["data"]["fingerprint"] = redrawn.fingerprint
    save_model(tmp_path / "other.safetensors", model, dataclasses.replace(card, provenance=provenance))
    with pytest.raises(ConfigError, match="different images"):
        evaluate(folder / "held-out", tmp_path / "other.safetensors", split="test")


def test_data_are_split_as_in_training(folder):
    _, card = load_model(folder / "held-out")
    assert resolve_data_config(card, DataConfig("digits"), folder).split_seed == 3
    assert resolve_data_config(card, None, folder) == DataConfig(str(folder / "unsplit"), split_seed=3)


def test_recalibration_is_the_mean_over_batches(folder):
    members = open_members([folder / "digits"], None, EvaluationOptions(split="train"))
    model, card, split = members[0].model, members[0].card, members[0].dataset.split
    assert isinstance(model, ResNet)
    weights = {name: value.clone() for name, value in model.named_parameters()}
    inputs = []
    handle = model.bn1.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    assert recalibrate_bn(model, split, card.preprocessing) == 1024  # four full batches of 256
    handle.remove()
    mean = torch.stack([x.mean((0, 2, 3)) for x in inputs]).mean(0)
    variance = torch.stack([x.transpose(0, 1).flatten(1).var(1) for x in inputs]).mean(0)
    assert torch.allclose(model.state_dict()["bn1.running_mean"], mean, atol=1e-5)
    assert torch.allclose(model.state_dict()["bn1.running_var"], variance, rtol=1e-4)
    assert all(torch.equal(value, weights[name]) for name, value in model.named_parameters())
    assert not model.training
    assert model.bn1.momentum == 0.1
    (member,) = open_members([folder / "digits"], None, EvaluationOptions(recalibrate_bn=True))
    assert member.num_recalibration_images == 1024
    assert isinstance(member.model, ResNet)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in member.model.state_dict().items())
    assert evaluate(folder / "digits", recalibrate_bn=True).loss != evaluate(folder / "digits").loss


def recalibrated(file, data, split=None):
    """Return the recalibrated statistics, and the note on their images."""
    options = EvaluationOptions(recalibrate_bn=True, split=split)
    (member,) = open_members([Path(file)], data, options)
    metrics = compute_metrics(evaluate_members([member], options), member.card.classes)
    assert isinstance(member.model, ResNet)
    note = next(note for note in evaluation_notes([member], metrics) if "statistics" in note)
    return member.model.state_dict()["bn1.running_mean"], note


def test_other_images_are_evaluated_with_statistics_of_the_training_images(folder):
    own, note = recalibrated(folder / "held-out", None)
    assert note.endswith("on 12 training images")
    swapped = "train=val,test=train"  # concerns the images that are evaluated
    cases = (("photos/val", None, None), ("photos", None, "val"), ("photos", None, "all"), ("photos", swapped, "test"))
    for place, splits, split in cases:
        data = DataConfig(str(folder / place), split_folders=splits)
        other, other_note = recalibrated(folder / "held-out", data, split)
        assert torch.equal(other, own)
        assert other_note == note


def test_recalibration_needs_the_training_images(folder, tmp_path):
    model, card = load_model(folder / "held-out")
    elsewhere = DataConfig(str(folder / "photos" / "val"))
    for changed in ("unsplit", "gone"):
        provenance = json.loads(json.dumps(card.provenance))
        provenance["config"]["data"]["name"] = str(folder / changed)
        provenance["data"]["fingerprint"] = "0" * 64
        file = tmp_path / f"{changed}.safetensors"
        save_model(file, model, dataclasses.replace(card, provenance=provenance))
        reason = {"unsplit": "changed since, or is read otherwise", "gone": "gone"}[changed]
        with pytest.raises(ConfigError, match=f"needs the images that .* was trained on.*{reason}"):
            recalibrated(file, elsewhere)
    imported = tmp_path / "imported.safetensors"
    save_model(imported, model, dataclasses.replace(card, provenance={}))
    with pytest.raises(ConfigError, match="has no training split of its own"):
        recalibrated(imported, elsewhere)
    for split in ("train", "all"):
        with pytest.raises(ConfigError, match="are evaluated themselves"):
            recalibrated(imported, DataConfig(str(folder / "photos")), split)
    note = recalibrated(imported, DataConfig(str(folder / "photos")))[1]
    assert note.endswith("on 32 training images of photos, not those that imported.safetensors was trained on")


def test_incompatible_options_raise():
    with pytest.raises(ConfigError, match="only for ten-crop and multi-scale, not for one-crop"):
        EvaluationOptions(sides=(256,))
    with pytest.raises(ConfigError, match="takes one shorter side, not 2"):
        EvaluationOptions(protocol="ten-crop", sides=(256, 300))


@pytest.mark.slow
def test_the_command(folder, tmp_path, capsys):
    done = run("evaluate", folder / "resident", "--page", tmp_path / "page.html", "--protocol", "ten-crop")
    assert done.returncode == 0, done.stderr
    assert "20 images, ten crops of 24 pixels from a shorter side of 27" in " ".join(done.stdout.split())
    assert max(len(line) for line in done.stdout.splitlines() if not line.startswith("page: ")) <= 80
    assert "<html" in (tmp_path / "page.html").read_text()
    output = json.loads(run("evaluate", folder / "resident", folder / "encoded", "--json").stdout)
    assert output["num_samples"] == 20
    assert output["top_k"] == 4  # of four classes
    assert output["top5_error_pct"] == 0
    for arguments, message in {
        (): "name a model file",
        ("nowhere.safetensors",): "no such model file",
        (folder / "resident", "--data", "nowhere"): "neither a known data set",
        (folder / "resident", folder / "encoded", "--protocol", "one-crop"): "average several with --protocol ensemble",
        (folder / "resident", "--protocl", "ten-crop"): "did you mean --protocol",
    }.items():
        assert main(["evaluate", *map(str, arguments)]) == 2, arguments
        stderr = capsys.readouterr().err
        assert message in stderr
        assert stderr.count("\n") == 1
