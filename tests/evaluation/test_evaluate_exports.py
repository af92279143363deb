"""Evaluation of exported files: the same samples and labels as for model files, and errors for unsupported options."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import resnetlab
from resnetlab.config import ConfigError, DataConfig, Recipe, RunConfig
from resnetlab.evaluation.evaluator import evaluate_members, open_members
from resnetlab.evaluation.options import EvaluationOptions
from resnetlab.export.export import export
from resnetlab.inference.formats.exported_file import SUFFIXES
from resnetlab.models.model_file import load_model, save_model

from conftest import resnetlab as run

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Train on digits, rename the model file, and export it to each format."""
    folder = tmp_path_factory.mktemp("exports")
    config = resnetlab.model_config("resnet8", stage_channels=(8, 8, 8))
    recipe = Recipe(epochs=1, batch_size=32, lr=0.05, normalise="pixel")
    resnetlab.fit(RunConfig(config, DataConfig("digits"), recipe), folder / "run")
    file = (folder / "run" / "model.safetensors").rename(folder / "digits.safetensors")
    for suffix, kind in SUFFIXES.items():
        export(file, file.with_suffix(suffix), kind)
    return folder


def evaluate(files, **fields):
    options = EvaluationOptions(**fields)
    members = open_members([Path(file) for file in files], None, options)
    return members, evaluate_members(members, options)


BACKENDS = [
    ("digits.safetensors", "torch"),
    ("digits.safetensors", "onnxruntime"),
    ("digits.safetensors", "openvino"),
    ("digits.onnx", "onnxruntime"),
    ("digits.onnx", "openvino"),
    ("digits.xml", None),
    ("digits.pt2", None),
]


@pytest.mark.parametrize("protocol", ["one-crop", "ten-crop"])
def test_every_runtime_gives_the_same_predictions(folder, protocol):
    _, expected = evaluate([folder / "digits.safetensors"], protocol=protocol)
    assert 0 < (expected.top[:, 0] != expected.labels).mean() < 0.8
    for name, backend in BACKENDS:
        (member,), predictions = evaluate([folder / name], protocol=protocol, backend=backend)
        assert np.array_equal(predictions.positions, expected.positions)
        assert np.array_equal(predictions.labels, expected.labels)
        np.testing.assert_allclose(predictions.loss, expected.loss, atol=1e-4)
        assert (predictions.top[:, 0] != expected.top[:, 0]).sum() == 0
        assert member.computed_by.split()[1] == "fp32"
        assert member.computed_by.split()[0] == (backend or {"digits.xml": "openvino", "digits.pt2": "torch"}[name])


def test_pytorch_evaluates_a_model_file_without_folding(folder):
    """The error equals training's exactly, with and without `backend="torch"`."""
    (member,), predictions = evaluate([folder / "digits.safetensors"])
    _, named = evaluate([folder / "digits.safetensors"], backend="torch")
    assert np.array_equal(predictions.loss, named.loss)
    wrong = (predictions.top[:, 0] != predictions.labels).sum()
    assert 100 * wrong / len(predictions.labels) == member.card.error["test_error_pct"]


def test_an_ensemble_of_a_model_file_and_exports(folder, tmp_path):
    model, card = load_model(folder / "digits.safetensors")
    order = [3, 1, 0, 2, 9, 8, 7, 6, 5, 4]  # the same network with its classes in another order
    model.fc.weight.data, model.fc.bias.data = model.fc.weight.data[order], model.fc.bias.data[order]
    permuted = tmp_path / "permuted.safetensors"
    save_model(permuted, model, dataclasses.replace(card, classes=tuple(card.classes[at] for at in order)))
    export(permuted, tmp_path / "permuted.onnx", "onnx")
    _, single = evaluate([folder / "digits.safetensors"])
    files = [folder / "digits.safetensors", tmp_path / "permuted.onnx", folder / "digits.xml"]
    members, average = evaluate(files, protocol="ensemble")
    np.testing.assert_allclose(average.loss, single.loss, atol=0.02)  # a runtime may compute in bf16
    assert members[0].computed_by == "torch fp32"
    assert members[2].computed_by == "openvino fp32"


@pytest.mark.parametrize("name", ["digits.onnx", "digits.xml", "digits.pt2"])
def test_unsupported_options_of_an_export_raise(folder, name):
    with pytest.raises(
        ConfigError, match="multi-scale needs a model file and PyTorch: an exported file has a fixed image size"
    ):
        evaluate([folder / name], protocol="multi-scale")
    with pytest.raises(ConfigError, match="--recalibrate-bn needs a model file and PyTorch: an exported file has no"):
        evaluate([folder / name], recalibrate_bn=True)


def test_unsupported_options_of_a_runtime_raise(folder):
    with pytest.raises(ConfigError, match=r"multi-scale needs .*: --backend openvino has a fixed"):
        evaluate([folder / "digits.safetensors"], protocol="multi-scale", backend="openvino")
    with pytest.raises(ConfigError, match="onnxruntime computes on the CPU, not on cuda"):
        EvaluationOptions(backend="onnxruntime", device="cuda")
    with pytest.raises(ConfigError, match="torch cannot compute an export in the format onnx"):
        evaluate([folder / "digits.onnx"], backend="torch")


@pytest.mark.slow
def test_the_command_reports_the_runtime(folder):
    done = run("evaluate", folder / "digits.xml")
    assert done.returncode == 0, done.stderr
    assert "computed by openvino fp32" in " ".join(done.stdout.split())
    page = folder / "digits-xml-evaluation.html"
    assert f"page: {page}" in done.stdout
    assert "digits.xml, computed by openvino fp32</dd>" in page.read_text()
    native = json.loads(run("evaluate", folder / "digits.safetensors", "--json").stdout)
    exported = json.loads(run("evaluate", folder / "digits.xml", "--json").stdout)
    assert (native["backend"], exported["backend"]) == (["torch fp32"], ["openvino fp32"])
    assert exported["top1_error_pct"] == native["top1_error_pct"]
    assert exported["confusion"] == native["confusion"]


@pytest.mark.slow
def test_backend_auto_measures_once(folder):
    first, second = (run("evaluate", folder / "digits.safetensors", "--backend", "auto", "--json") for _ in range(2))
    assert "ms an image in batches of 1 and 16" in first.stderr
    assert "(measured before)" in second.stderr
    assert json.loads(first.stdout)["backend"] == json.loads(second.stdout)["backend"]
