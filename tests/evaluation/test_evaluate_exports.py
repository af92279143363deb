"""Exported files judged as model files are: the same samples, labels that follow names, and what is refused."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import resnetlab
from resnetlab.config import ConfigError, DataConfig, Recipe, RunConfig
from resnetlab.evaluation.evaluator import EvaluationOptions, evaluate_members, open_members
from resnetlab.export.export import export
from resnetlab.inference.formats.exported_file import SUFFIXES
from resnetlab.models.model_file import load_model, save_model

from conftest import resnetlab as run

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A run on digits, its model file under another name, and what was exported of that."""
    place = tmp_path_factory.mktemp("exports")
    config = resnetlab.model_config("resnet8", stage_channels=(8, 8, 8))
    recipe = Recipe(epochs=1, batch_size=32, lr=0.05, normalise="pixel")
    resnetlab.fit(RunConfig(config, DataConfig("digits"), recipe), place / "run")
    file = (place / "run" / "model.safetensors").rename(place / "digits.safetensors")
    for suffix, kind in SUFFIXES.items():
        export(file, file.with_suffix(suffix), kind)
    return place


def judged(files, **terms):
    agreed = EvaluationOptions(**terms)
    members = open_members([Path(file) for file in files], None, agreed, None)
    return members, evaluate_members(members, agreed)


WAYS = [
    ("digits.safetensors", "torch"),
    ("digits.safetensors", "onnxruntime"),
    ("digits.safetensors", "openvino"),
    ("digits.onnx", "onnxruntime"),
    ("digits.onnx", "openvino"),
    ("digits.xml", None),
    ("digits.pt2", None),
]


@pytest.mark.parametrize("protocol", ["one-crop", "ten-crop"])
def test_every_runtime_gives_the_same_judgement(made, protocol):
    _, expected = judged([made / "digits.safetensors"], protocol=protocol)
    assert 0 < (expected.top[:, 0] != expected.labels).mean() < 0.8
    for name, backend in WAYS:
        (member,), found = judged([made / name], protocol=protocol, backend=backend)
        assert np.array_equal(found.positions, expected.positions)
        assert np.array_equal(found.labels, expected.labels)
        np.testing.assert_allclose(found.loss, expected.loss, atol=1e-4)
        assert (found.top[:, 0] != expected.top[:, 0]).sum() == 0
        assert member.computed_by.split()[1] == "fp32"
        assert member.computed_by.split()[0] == (backend or {"digits.xml": "openvino", "digits.pt2": "torch"}[name])


def test_pytorch_judges_a_model_file_as_ever(made):
    """Not folded: to the last bit what training said; naming the backend changes nothing."""
    (member,), found = judged([made / "digits.safetensors"])
    _, named = judged([made / "digits.safetensors"], backend="torch")
    assert np.array_equal(found.loss, named.loss)
    wrong = (found.top[:, 0] != found.labels).sum()
    assert 100 * wrong / len(found.labels) == member.card.error["test_error_pct"]


def test_an_ensemble_of_a_model_file_and_exports(made, tmp_path):
    model, card = load_model(made / "digits.safetensors")
    order = [3, 1, 0, 2, 9, 8, 7, 6, 5, 4]  # the same network, its classes numbered otherwise
    model.fc.weight.data, model.fc.bias.data = model.fc.weight.data[order], model.fc.bias.data[order]
    turned = tmp_path / "turned.safetensors"
    save_model(turned, model, dataclasses.replace(card, classes=tuple(card.classes[at] for at in order)))
    export(turned, tmp_path / "turned.onnx", "onnx")
    _, alone = judged([made / "digits.safetensors"])
    files = [made / "digits.safetensors", tmp_path / "turned.onnx", made / "digits.xml"]
    members, together = judged(files, protocol="ensemble")
    np.testing.assert_allclose(together.loss, alone.loss, atol=0.02)  # bf16 may be among them
    assert members[0].computed_by == "torch fp32"
    assert members[2].computed_by == "openvino fp32"


@pytest.mark.parametrize("name", ["digits.onnx", "digits.xml", "digits.pt2"])
def test_what_an_export_cannot(made, name):
    with pytest.raises(ConfigError, match="multi-scale needs a model file and PyTorch: an exported file has the size"):
        judged([made / name], protocol="multi-scale")
    with pytest.raises(ConfigError, match="--recalibrate-bn needs a model file and PyTorch: in an exported file no"):
        judged([made / name], recalibrate_bn=True)


def test_what_another_runtime_cannot(made):
    with pytest.raises(ConfigError, match=r"multi-scale needs .*: --backend openvino has the size"):
        judged([made / "digits.safetensors"], protocol="multi-scale", backend="openvino")
    with pytest.raises(ConfigError, match="onnxruntime computes on the CPU, and not on cuda"):
        EvaluationOptions(backend="onnxruntime", device="cuda")
    with pytest.raises(ConfigError, match="torch cannot compute an export in the format onnx"):
        judged([made / "digits.onnx"], backend="torch")


@pytest.mark.slow
def test_the_command_says_what_computed(made):
    done = run("evaluate", made / "digits.xml")
    assert done.returncode == 0, done.stderr
    assert "computed by openvino fp32" in " ".join(done.stdout.split())
    page = made / "digits-xml-evaluation.html"
    assert f"page: {page}" in done.stdout
    assert "digits.xml, computed by openvino fp32</dd>" in page.read_text()
    said = json.loads(run("evaluate", made / "digits.safetensors", "--json").stdout)
    exported = json.loads(run("evaluate", made / "digits.xml", "--json").stdout)
    assert (said["backend"], exported["backend"]) == (["torch fp32"], ["openvino fp32"])
    assert exported["top1_error_pct"] == said["top1_error_pct"]
    assert exported["confusion"] == said["confusion"]


@pytest.mark.slow
def test_the_command_measures_if_asked(made):
    first, second = (run("evaluate", made / "digits.safetensors", "--backend", "auto", "--json") for _ in range(2))
    assert "ms an image in batches of 1 and 16" in first.stderr
    assert "(measured before)" in second.stderr
    assert json.loads(first.stdout)["backend"] == json.loads(second.stdout)["backend"]
