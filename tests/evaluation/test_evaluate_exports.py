"""Evaluation of exported files: the same samples and labels as for model files, and errors for unsupported options."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import resnetlab
from helpers.images import write_tree
from helpers.small_network import CLASSES
from resnetlab.cli.evaluate import Options, build_evaluation_options
from resnetlab.cli.main import main
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


def evaluate(files, data=None, **fields):
    options = EvaluationOptions(**fields)
    members = open_members([Path(file) for file in files], data, options)
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


def test_exports_give_the_predictions_of_their_model_file(small_exports, tmp_path):
    data = DataConfig(str(write_tree(tmp_path / "data", dict.fromkeys(CLASSES, 3), side=32)))
    _, expected = evaluate([small_exports / "model.safetensors"], data, split="all")
    assert len(expected.labels) == 18
    for suffix in SUFFIXES:
        _, predictions = evaluate([small_exports / f"model{suffix}"], data, split="all")
        assert np.array_equal(predictions.positions, expected.positions)
        assert np.array_equal(predictions.labels, expected.labels)
        np.testing.assert_allclose(predictions.loss, expected.loss, rtol=0.05, atol=0.02)  # a runtime may use bf16


@pytest.mark.slow  # a network that has learnt, and every runtime
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


@pytest.mark.slow
def test_pytorch_evaluates_a_model_file_without_folding(folder):
    """The error equals training's exactly, with and without `backend="torch"`."""
    (member,), predictions = evaluate([folder / "digits.safetensors"])
    _, named = evaluate([folder / "digits.safetensors"], backend="torch")
    assert np.array_equal(predictions.loss, named.loss)
    wrong = (predictions.top[:, 0] != predictions.labels).sum()
    assert 100 * wrong / len(predictions.labels) == member.card.error["test_error_pct"]


@pytest.mark.slow  # test_evaluator.py averages model files
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


@pytest.mark.parametrize("name", ["model.onnx", "model.xml", "model.pt2"])
def test_unsupported_options_of_an_export_raise(small_exports, name):
    with pytest.raises(
        ConfigError, match="multi-scale needs a model file and PyTorch: an exported file has a fixed image size"
    ):
        evaluate([small_exports / name], protocol="multi-scale")
    with pytest.raises(ConfigError, match="--recalibrate-bn needs a model file and PyTorch: an exported file has no"):
        evaluate([small_exports / name], recalibrate_bn=True)


def test_unsupported_options_of_a_runtime_raise(small_exports):
    with pytest.raises(ConfigError, match=r"multi-scale needs .*: --backend openvino has a fixed"):
        evaluate([small_exports / "model.safetensors"], protocol="multi-scale", backend="openvino")
    with pytest.raises(ConfigError, match="onnxruntime computes on the CPU, not on cuda"):
        EvaluationOptions(backend="onnxruntime", device="cuda")
    with pytest.raises(ConfigError, match="torch cannot compute an export in the format onnx"):
        evaluate([small_exports / "model.onnx"], backend="torch")


@pytest.mark.parametrize("name", ["model.onnx", "model.xml"])
def test_an_export_for_the_cpu_is_not_computed_there_in_place_of_a_gpu(small_exports, name, monkeypatch):
    file = small_exports / name
    with pytest.raises(ConfigError, match=f"{name} computes on the CPU, not on cuda:0; leave out --device"):
        evaluate([file], device="cuda:0")
    monkeypatch.setattr("resnetlab.training.distributed.pick_device", lambda device: f"the device of {device}")
    model = small_exports / "model.safetensors"
    for models, device, expected in [
        ((file,), "auto", "cpu"),
        ((model, file), "auto", "cpu"),
        ((model,), "auto", "the device of auto"),
        ((small_exports / "model.pt2",), "auto", "the device of auto"),
        ((file,), "cuda", "the device of cuda"),
    ]:
        assert build_evaluation_options(Options(models, device=device)).device == expected


@pytest.mark.slow
def test_the_command_reports_the_runtime(folder, capsys):
    done = run("evaluate", folder / "digits.xml")
    assert done.returncode == 0, done.stderr
    assert "computed by openvino fp32" in " ".join(done.stdout.split())
    page = folder / "digits-xml-evaluation.html"
    assert f"page: {page}" in done.stdout
    assert "digits.xml, computed by openvino fp32</dd>" in page.read_text()
    outputs = []
    for name in ("digits.safetensors", "digits.xml"):
        assert main(["evaluate", str(folder / name), "--json"]) == 0
        outputs.append(json.loads(capsys.readouterr().out))
    native, exported = outputs
    assert (native["backend"], exported["backend"]) == (["torch fp32"], ["openvino fp32"])
    assert exported["top1_error_pct"] == native["top1_error_pct"]
    assert exported["confusion"] == native["confusion"]


@pytest.mark.slow
def test_backend_auto_measures_once(folder, capsys, monkeypatch):
    monkeypatch.setattr("resnetlab.inference.backend_selection.MEASURE_S", 0.02)
    outputs = []
    for _ in range(2):
        assert main(["evaluate", str(folder / "digits.safetensors"), "--backend", "auto", "--json"]) == 0
        outputs.append(capsys.readouterr())
    first, second = outputs
    assert "ms an image in batches of 1 and 16" in first.err
    assert "(measured before)" in second.err
    assert json.loads(first.out)["backend"] == json.loads(second.out)["backend"]
