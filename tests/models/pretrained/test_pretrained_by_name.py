"""Published weights by name: from a local server into the cache, converted, and used by every function."""

import dataclasses
import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import resnetlab
from helpers.public_resnets import randomise
from helpers.web_server import serve_folder
from resnetlab.cli import evaluate, export
from resnetlab.cli.main import main
from resnetlab.config import ConfigError
from resnetlab.models.model_card import ModelFileError, find_model_file, read_card
from resnetlab.models.model_file import load_model
from resnetlab.models.pretrained import catalogue, fetch
from resnetlab.models.zoo import build_model
from resnetlab.system.download import CacheError, DownloadError, HashError, RemoteFile

from conftest import ROOT

SHARED = ROOT.parent / "shared" / "data"
IMAGENET, OPTION_A, OPTION_B = "resnet18.tv_in1k", "resnet20.akamaster_cifar10", "resnet20.chenyaofo_cifar10"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and none of PyTorch's hub."""
    monkeypatch.setenv("RESNETLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "cache" / "weights"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder of files with the keys and shapes of the published ones, and random weights."""
    folder = tmp_path_factory.mktemp("published")
    for name in (IMAGENET, OPTION_A, OPTION_B):
        entry = catalogue.CATALOGUE[name]
        state = randomise(build_model(entry.model)).state_dict()
        if name == OPTION_A:
            state = {f"module.{key.replace('fc.', 'linear.')}": value for key, value in state.items()}
            torch.save({"state_dict": state, "best_prec1": 91.73}, folder / entry.file_name)
        else:
            torch.save(state, folder / entry.file_name)
    return folder


@pytest.fixture
def server(published, monkeypatch):
    """A server of these files; the catalogue has their addresses and hashes."""
    with serve_folder(published) as server:
        for name in (IMAGENET, OPTION_A, OPTION_B):
            entry = catalogue.CATALOGUE[name]
            digest = hashlib.sha256((published / entry.file_name).read_bytes()).hexdigest()
            file = RemoteFile(f"{server.url}/{entry.file_name}", digest[:8])
            monkeypatch.setitem(catalogue.CATALOGUE, name, dataclasses.replace(entry, file=file))
        yield server


@pytest.fixture
def offline(monkeypatch):
    """A catalogue whose server cannot be reached."""
    for name, entry in list(catalogue.CATALOGUE.items()):
        file = dataclasses.replace(entry.file, url=f"http://127.0.0.1:1/{entry.file_name}")
        monkeypatch.setitem(catalogue.CATALOGUE, name, dataclasses.replace(entry, file=file))


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "cat.png")
    return tmp_path / "cat.png"


def requests(server):
    return sum(server.requests.values())


def test_imagenet_network_by_name(server, cache, photo, published):
    predictor = resnetlab.load(IMAGENET)
    assert predictor.classes[:2] == ("tench", "goldfish")
    assert predictor(photo).label in predictor.classes
    entry = catalogue.CATALOGUE[IMAGENET]
    state = torch.load(published / entry.file_name)
    model, card = load_model(IMAGENET)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert card.preprocessing == entry.preprocessing
    origin = card.provenance["converted_from"]
    assert origin["published_accuracy"] == {"top1_pct": 69.758, "top5_pct": 89.078}
    assert (origin["url"], origin["licence"]) == (entry.file.url, "BSD-3-Clause")
    assert requests(server) == 1
    assert {path.suffix for path in cache.iterdir() if not path.name.startswith(".")} == {".pth", ".safetensors"}
    (cache / entry.file_name).unlink()  # the model file alone is enough
    assert find_model_file(IMAGENET).exists()
    assert requests(server) == 1


def test_commands_take_a_name(server, photo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["predict", OPTION_A, str(photo), "--json", "--workers", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["label"] in read_card(OPTION_A).classes
    assert main(["inspect", OPTION_A, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["network"]["name"], shown["has_checksums"]) == ("resnet20", True)
    assert main(["export", OPTION_A, "--int8"]) == 2  # after the name was found
    assert "--int8 requires images" in capsys.readouterr().err
    assert requests(server) == 1


@pytest.mark.parametrize("model", [OPTION_A, "hf:/someone/pets"])
def test_export_of_a_name_goes_into_the_current_folder(model):
    cached = Path("cache") / "weights" / "a-0123.safetensors"
    name = Path(model).name
    assert export._output_file(export.Options(Path(model)), cached) == ("onnx", Path(f"{name}.onnx"))


def test_export_of_a_file_stays_beside_it(tmp_path):
    path = tmp_path / "a.b.safetensors"
    path.touch()
    assert export._output_file(export.Options(path), path) == ("onnx", tmp_path / "a.b.onnx")


def test_evaluation_by_name(server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for index, name in enumerate(read_card(OPTION_B).classes):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.fromarray(np.full((32, 32, 3), 20 * index, np.uint8)).save(tmp_path / "data" / name / "a.png")
    pages = []
    monkeypatch.setattr(evaluate, "_write_page", lambda page, *_: pages.append(page))
    assert main(["evaluate", OPTION_B, "--data", "data", "--split", "all"]) == 0
    assert pages == [Path(f"{OPTION_B}-evaluation.html")]  # in the current folder, not in the cache
    assert f"page: {OPTION_B}-evaluation.html" in capsys.readouterr().out


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of two of CIFAR-10's classes, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(10):
            pixels = np.random.default_rng(index).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{index}.png")


def test_layer_statistics_of_a_name(server, photos, tmp_path, capsys):
    """The figures are in the current folder, not in the cache."""
    assert main(["diagnose", OPTION_B, "--data", "photos", "--batch-size", "8", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert len(printed["signals"][0]["response_std"]) == 21
    assert {Path(file).parent for file in printed["figures"]} == {Path(f"{OPTION_B}-diagnosis")}


def test_training_from_a_name(server, photos, tmp_path, monkeypatch, capsys):
    words = ["train", "--from", OPTION_B, "--data", "photos", "--steps", "1", "--batch-size", "4", "--json"]
    assert main([*words, "--workers", "0"]) == 0
    result = json.loads(capsys.readouterr().out)
    card = read_card(result["out"])
    assert (card.classes, card.model.shortcut) == (("cat", "dog"), "project")
    assert card.preprocessing == catalogue.CATALOGUE[OPTION_B].preprocessing
    config = json.loads((tmp_path / result["out"] / "config.json").read_text())
    assert config["weights"] == OPTION_B


def test_folder_of_that_name_comes_first(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / OPTION_A).mkdir()
    with pytest.raises(ModelFileError, match="a folder without model"):
        find_model_file(OPTION_A)
    assert requests(server) == 0


def test_build_model_with_weights(server):
    model = resnetlab.build_model("resnet20", weights="chenyaofo_cifar10")
    state = load_model(OPTION_B)[0].state_dict()
    assert model.training
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert model.config.shortcut == "project"  # as in the file

    first, second = (
        resnetlab.build_model(
            "resnet20", 37, weights=OPTION_B, generator=torch.Generator().manual_seed(seed), init_scale=0.5
        )
        for seed in (0, 1)
    )
    assert first.fc.weight.shape == (37, 64)
    assert not torch.equal(first.fc.weight, second.fc.weight)
    assert torch.equal(first.get_parameter("conv1.weight"), state["conv1.weight"])

    path = find_model_file(OPTION_A)
    built, loaded = resnetlab.build_model("resnet20", weights=str(path)), load_model(path)[0]
    assert torch.equal(built.get_parameter("conv1.weight"), loaded.get_parameter("conv1.weight"))


@pytest.mark.parametrize(
    ("model", "weights", "changes", "message"),
    [
        (
            "resnet20",
            "tv_in1k",
            {},
            "resnet20 has no published weights 'tv_in1k'; its weights are akamaster_cifar10, c",
        ),
        ("resnet26", "tv_in1k", {}, "resnet26 has no published weights 'tv_in1k'; resnetlab weights lists"),
        ("resnet32", OPTION_A, {}, r"resnet20.akamaster_cifar10 holds resnet20, which is another network \(stage_bl"),
        ("plain20", OPTION_A, {}, r"another network \(shortcut: pad -> none\)"),
        ("resnet20", OPTION_A, {"shortcut": "project"}, r"another network \(shortcut: pad -> project\)"),
        ("resnet20", OPTION_A, {"in_channels": 1}, r"another network \(in_channels: 3 -> 1\)"),
        ("resnet20", "resnet20.akamaster_cifar", {}, "did you mean resnet20.akamaster_cifar10"),
    ],
)
def test_build_model_refuses(server, model, weights, changes, message):
    with pytest.raises(ConfigError, match=message):
        resnetlab.build_model(model, weights=weights, **changes)


def test_offline_message_names_file_address_and_folder(offline, cache):
    with pytest.raises(DownloadError) as caught:
        resnetlab.load("resnet50.tv2_in1k")
    assert str(caught.value) == (
        "resnet50.tv2_in1k is not on this machine, and http://127.0.0.1:1/resnet50-11ad3fa6.pth: cannot be downloaded "
        f"(Connection refused); download it elsewhere and put it into {cache} as resnet50-11ad3fa6.pth, or name a "
        "cache that has it with --cache-dir or RESNETLAB_CACHE"
    )


def test_offline_command_prints_one_line(offline, photo, capsys):
    assert main(["predict", OPTION_A, str(photo)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"resnetlab: {OPTION_A} is not on this machine")
    assert captured.err.count("\n") == 1


@pytest.mark.skipif(not (SHARED / "weights").exists(), reason="shared/data/weights is missing")
@pytest.mark.parametrize(
    ("name", "folder"), [("resnet20.akamaster_cifar10", "torch"), ("resnet56.akamaster_cifar10", "cache")]
)
def test_published_file_found_on_disk_needs_no_network(offline, cache, tmp_path, name, folder):
    """The real files of the repository, with its hashes: in the cache, or where PyTorch's hub stores files."""
    entry = catalogue.CATALOGUE[name]
    target = {"cache": cache, "torch": tmp_path / "torch" / "hub" / "checkpoints"}[folder]
    target.mkdir(parents=True)
    assert not fetch.is_cached(entry)
    shutil.copy(SHARED / "weights" / entry.file_name, target)
    assert fetch.is_cached(entry)
    card = read_card(name)
    assert card.provenance["converted_from"]["sha256"] == entry.file.digest
    assert card.classes[0] == "airplane"


def test_wrong_file_on_disk_is_not_used(offline, cache):
    cache.mkdir(parents=True)
    (cache / "resnet20-12fca82f.th").write_bytes(b"other")
    with pytest.raises(DownloadError, match=r"the file resnet20-12fca82f.th in .* has another SHA-256, and http"):
        find_model_file(OPTION_A)


def test_wrong_hash_is_refused_and_nothing_is_left(server, cache, monkeypatch):
    entry = catalogue.CATALOGUE[OPTION_A]
    file = dataclasses.replace(entry.file, digest="0123456789abcdef")
    monkeypatch.setitem(catalogue.CATALOGUE, OPTION_A, dataclasses.replace(entry, file=file))
    with pytest.raises(HashError, match="not the published file"):
        find_model_file(OPTION_A)
    assert [path.name for path in cache.iterdir() if path.suffix != ".lock"] == []


def test_a_cache_that_cannot_be_written_names_the_option(server, cache):
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.touch()
    with pytest.raises(
        CacheError, match=r"cannot be written \(.*\); free some space, or name another folder with --cache-dir"
    ):
        find_model_file(OPTION_A)


def test_another_network_under_a_name_is_refused(server, monkeypatch):
    wrong, right = catalogue.CATALOGUE[OPTION_B], catalogue.CATALOGUE[OPTION_A]
    monkeypatch.setitem(catalogue.CATALOGUE, OPTION_A, dataclasses.replace(right, file=wrong.file))
    with pytest.raises(ModelFileError, match=rf"holds another network than {OPTION_A} \(shortcut: project -> pad\)"):
        find_model_file(OPTION_A)


def test_changed_preprocessing_makes_another_model_file(server, monkeypatch):
    before = find_model_file(OPTION_B)
    entry = catalogue.CATALOGUE[OPTION_B]
    publisher = dataclasses.replace(entry.publisher, std=(0.25, 0.25, 0.25))
    monkeypatch.setitem(catalogue.CATALOGUE, OPTION_B, dataclasses.replace(entry, publisher=publisher))
    assert find_model_file(OPTION_B) != before
    assert read_card(OPTION_B).preprocessing.std == (0.25, 0.25, 0.25)
    assert requests(server) == 1


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("resnet50.tv2_in1", "did you mean resnet50.tv2_in1k?"),
        ("resnet50.TV2_in1k", "did you mean resnet50.tv2_in1k?"),
        ("resnet18", "those of resnet18 are resnet18.tv_in1k, resnet18.a1_in1k"),
        ("resnet18.imagenet", "those of resnet18 are resnet18.tv_in1k, resnet18.a1_in1k"),
    ],
)
def test_similar_names(text, hint):
    with pytest.raises(ModelFileError, match=re.escape(hint)):
        find_model_file(text)


@pytest.mark.parametrize("text", ["model.safetensors", "runs/resnet18", "resnet18.pth", "nothing"])
def test_paths_get_no_hint(text):
    with pytest.raises(ModelFileError, match=rf"^{text}: no such model file$"):
        find_model_file(text)
