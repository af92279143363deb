"""`resnetlab weights`: the table, the details and JSON; `--cache-dir` for every command."""

import json
import os
import shutil

import pytest

from resnetlab.cli.main import main
from resnetlab.models.pretrained.catalogue import CATALOGUE

from conftest import ROOT

SHARED = ROOT.parent / "shared" / "data" / "weights"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESNETLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path / "cache"


def output(capsys, *words):
    assert main(["weights", *words]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def error(capsys, *words, status=2):
    assert main(["weights", *words]) == status
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    return captured.err


def test_table_fits_80_columns(capsys, cache):
    lines = output(capsys).splitlines()
    assert max(map(len, (line for line in lines if "Cache" not in line))) <= 80
    assert "timm, licence Apache-2.0" in lines
    row = next(line for line in lines if line.startswith("resnet50.tv2_in1k"))
    assert row.split() == ["resnet50.tv2_in1k", "25.56", "M", "80.86", "95.43", "232,", "224", "bilinear", "no"]
    row = next(line for line in lines if line.startswith("resnet20.akamaster_cifar10"))
    assert row.split() == ["resnet20.akamaster_cifar10", "0.27", "M", "91.73", "–", "32", "–", "no"]
    assert sum(line.startswith(("resnet", "resnext", "wide_resnet")) for line in lines) == len(CATALOGUE)
    assert lines[-1] == f"Cache: {cache}"


def test_json_has_every_entry(capsys, cache):
    content = json.loads(output(capsys, "--json"))
    assert content["cache"] == str(cache)
    assert [entry["name"] for entry in content["weights"]] == list(CATALOGUE)
    index = list(CATALOGUE).index("resnet18.a1_in1k")
    assert json.loads(output(capsys, "resnet18.a1_in1k", "--json")) == content["weights"][index]


def test_details(capsys):
    text = output(capsys, "resnet50.tv2_in1k")
    for part in (
        "network     resnet50, 25,557,032 parameters, 1,000 classes",
        "accuracy    top-1 80.86 %, top-5 95.43 %, as published",
        "images      224 pixels, the centre of a shorter side of 232 (bilinear, antialiased)",
        "rounding    that of torchvision",
        "licence     BSD-3-Clause",
        "file        https://download.pytorch.org/models/resnet50-11ad3fa6.pth, 97.8 MiB",
        "SHA-256     11ad3fa6…",
        "on the hub  hf://timm/resnet50.tv2_in1k",
        "cached      no",
    ):
        assert part in text.splitlines() or part in text
    assert "SHA-256     12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8\n" in output(
        capsys, "resnet20.akamaster_cifar10"
    )


@pytest.mark.skipif(not SHARED.exists(), reason="shared/data/weights is missing")
def test_fetch_from_disk_and_cached(capsys, cache):
    name = "resnet20.akamaster_cifar10"
    (cache / "weights").mkdir(parents=True)
    shutil.copy(SHARED / CATALOGUE[name].file_name, cache / "weights")
    assert json.loads(output(capsys, name, "--json"))["cached"]
    path = output(capsys, "fetch", name).removeprefix("model file: ").strip()
    assert path.startswith(f"{cache}/weights/{name}-")
    assert json.loads(output(capsys, "fetch", name, "--json")) == {"name": name, "model_file": path}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resnet50.tv2_in1"], "there are no published weights 'resnet50.tv2_in1'; did you mean resnet50.tv2_in1k?"),
        (["resnet18"], "'resnet18'; those of resnet18 are resnet18.tv_in1k, resnet18.a1_in1k"),
        (["nothing"], "there are no published weights 'nothing'; resnetlab weights lists all"),
        (["a", "b"], "weights takes one name, not 'a b'"),
        (["fetch"], "fetch takes one name"),
        (["fetch", "nothing"], "there are no published weights 'nothing'"),
        (["push", "a"], "push takes a model file and an address"),
        (["--private"], "--private requires push"),
        (["resnet18.tv_in1k", "--licence", "mit"], "--licence requires push"),
    ],
)
def test_wrong_calls(capsys, words, message):
    assert message in error(capsys, *words)


def test_cache_dir_is_an_option_of_every_command(capsys, tmp_path):
    for words in (["weights", "--cache-dir", str(tmp_path / "a"), "--json"], ["--cache-dir=b", "weights", "--json"]):
        assert main(words) == 0
    first, second = (json.loads(line)["cache"] for line in capsys.readouterr().out.splitlines())
    assert (first, second) == (str(tmp_path / "a"), "b")
    assert os.environ["RESNETLAB_CACHE"] == "b"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["weights", "--cache-dir"], "--cache-dir has no value"),
        (["weights", "--cache-dir", "--json"], "--cache-dir has no value"),
        (["weights", "--cache-dir", __file__], "is a file; name a folder"),
    ],
)
def test_cache_dir_without_a_folder(capsys, words, message):
    assert main(words) == 2
    assert message in capsys.readouterr().err
