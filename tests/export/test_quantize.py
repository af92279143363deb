"""Quantisation to int8: accuracy, the graph, calibration data, and errors."""

import copy
import dataclasses
import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from helpers.images import write_tree
from resnetlab.cli.main import main
from resnetlab.config import ConfigError, DataConfig, Preprocessing, RunConfig
from resnetlab.data.dataset import Dataset, Split
from resnetlab.data.images.scan import BadDataError
from resnetlab.data.open_dataset import open_data
from resnetlab.export.quantize import QuantizationLossError, _open_splits, quantize
from resnetlab.inference.engines.onnx_runtime import OnnxEngine
from resnetlab.inference.engines.openvino_runtime import OpenVinoEngine
from resnetlab.inference.formats.onnx_graph import onnx_model
from resnetlab.models.model_card import ModelCard
from resnetlab.models.model_file import load_model, save_model
from resnetlab.models.resnet import ResNet
from resnetlab.models.zoo import model_config
from resnetlab.serialization import to_json
from resnetlab.training.fit import fit
from resnetlab.training.recipes import recipe
from resnetlab.training.reports import TrainResult

from conftest import ROOT, resnetlab

DIGITS = DataConfig("digits")
WEIGHTS = ROOT.parent / "shared/data/weights/resnet20-12fca82f.th"
CIFAR = ROOT.parent / "shared/data/cifar10"


@pytest.fixture(scope="module")
def fitted() -> TrainResult:
    """Train a small network with option A shortcuts on digits."""
    short = recipe("digits", epochs=2)
    return fit(RunConfig(model_config("resnet8"), DIGITS, short, layer_stats_steps=0, precision="fp32", compile="off"))


@pytest.fixture(scope="module")
def graph(fitted: TrainResult) -> onnx.ModelProto:
    return onnx_model(fitted.model, fitted.card.preprocessing)


@pytest.fixture(scope="module")
def quantized(fitted: TrainResult, graph: onnx.ModelProto) -> tuple[onnx.ModelProto, dict]:
    before = graph.SerializeToString()
    result = quantize(graph, fitted.card, DIGITS, allowed_loss_pct=2.0, model=fitted.model)
    assert graph.SerializeToString() == before
    return result


def pixels(split: Split) -> np.ndarray:
    assert isinstance(split.images, torch.Tensor)
    return split.images.permute(0, 2, 3, 1).contiguous().numpy()


def predict_classes(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    engine = OnnxEngine(model.SerializeToString, "int8", cores=1, callers=1)
    return engine.logits(images).argmax(1)


def fragile(model: ResNet) -> ResNet:
    """Return an equivalent network with one channel between two convolutions scaled by 30,000."""
    changed = copy.deepcopy(model)
    for name, module in changed.named_modules():
        if name.endswith("bn1") and "." in name:
            block = changed.get_submodule(name.rpartition(".")[0])
            with torch.no_grad():
                module.get_parameter("weight")[0] *= 30_000
                module.get_parameter("bias")[0] *= 30_000
                block.get_parameter("conv2.weight")[:, 0] /= 30_000
    return changed


def test_the_loss_is_small_and_reported_correctly(fitted: TrainResult, quantized: tuple[onnx.ModelProto, dict]):
    model, metadata = quantized
    val = open_data(DIGITS, preprocessing=fitted.card.preprocessing).val
    wrong = predict_classes(model, pixels(val)) != val.labels.numpy()
    assert metadata["error_after_pct"] == pytest.approx(100 * wrong.mean())
    assert metadata["error_before_pct"] == pytest.approx(fitted.result["val_error_pct"])
    assert metadata["error_after_pct"] <= metadata["error_before_pct"] + 2 < 30  # the network is trained
    assert metadata["top1_agreement_pct"] >= 98
    assert (metadata["data"], metadata["calibration_images"], metadata["validation_images"]) == ("digits", 512, 270)


def test_weights_are_int8_per_channel_and_logits_are_float(quantized: tuple[onnx.ModelProto, dict]):
    model, _ = quantized
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    producers = {output: node for node in model.graph.node for output in node.output}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(layers) == 8
    for node in layers:
        weights, scale, _ = (tensors[name] for name in producers[node.input[1]].input)
        assert weights.dtype == np.int8
        assert scale.shape == (len(weights),)
        assert producers[node.input[0]].op_type == "DequantizeLinear"
    assert producers["logits"].op_type == "Gemm"
    assert not [
        node for node in model.graph.node if node.op_type == "Relu"
    ]  # uint8 starts at 0, so quantisation does the clamping


def test_the_batch_dimension_is_dynamic_and_the_file_is_small(
    graph: onnx.ModelProto, quantized: tuple[onnx.ModelProto, dict]
):
    model, _ = quantized
    assert model.graph.input == graph.graph.input
    assert model.graph.output[0].type.tensor_type.shape.dim[0].dim_param
    assert model.ByteSize() < 0.4 * graph.ByteSize()
    assert not model.metadata_props


@pytest.mark.parametrize("size", [1, 7])
def test_both_runtimes_agree(fitted: TrainResult, quantized: tuple[onnx.ModelProto, dict], size: int):
    content = quantized[0].SerializeToString()
    images = pixels(open_data(DIGITS, preprocessing=fitted.card.preprocessing).val)[:size]
    onnx_logits = OnnxEngine(lambda: content, "int8", cores=1, callers=1).logits(images)
    openvino_logits = OpenVinoEngine(lambda: (content, b""), "int8", cores=1, callers=1).logits(images)
    assert np.abs(onnx_logits - openvino_logits).max() < 0.1 * onnx_logits.std()


def test_a_fragile_network_is_refused_unless_its_loss_is_allowed(fitted: TrainResult):
    model = fragile(fitted.model)
    images = torch.rand(8, 1, 8, 8)
    with torch.no_grad():
        assert (model(images) - fitted.model(images)).abs().max() < 1e-3  # the same network in float
    changed = onnx_model(model, fitted.card.preprocessing)
    with pytest.raises(QuantizationLossError) as error:
        quantize(changed, fitted.card, DIGITS, allowed_loss_pct=0.5, model=model)
    _, metadata = quantize(changed, fitted.card, DIGITS, allowed_loss_pct=100, model=model)
    assert metadata["error_after_pct"] > metadata["error_before_pct"] + 10
    assert metadata["allowed_loss_pct"] == 100
    for figure in (
        f"{metadata['error_before_pct']:.2f} %",
        f"{metadata['error_after_pct']:.2f} %",
        "--allow-loss",
        "270",
    ):
        assert figure in str(error.value)


def test_ranges_are_computed_on_training_images(
    fitted: TrainResult, graph: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
):
    def black(config: DataConfig, **options: Any) -> Dataset:
        dataset = open_data(config, **options)
        assert isinstance(dataset.train.images, torch.Tensor)
        return dataclasses.replace(dataset, train=Split(torch.zeros_like(dataset.train.images), dataset.train.labels))

    monkeypatch.setattr("resnetlab.export.quantize.open_data", black)
    with pytest.raises(QuantizationLossError, match=r"points, and 0\.5 are allowed"):
        quantize(graph, fitted.card, DIGITS, allowed_loss_pct=0.5, model=fitted.model)


def test_classes_are_matched_by_name(fitted: TrainResult, quantized: tuple[onnx.ModelProto, dict]):
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    model = copy.deepcopy(fitted.model)
    with torch.no_grad():
        for parameter in model.fc.parameters():
            parameter.copy_(parameter[order].clone())
    card = dataclasses.replace(fitted.card, classes=tuple(fitted.card.classes[at] for at in order))
    _, metadata = quantize(onnx_model(model, card.preprocessing), card, DIGITS, allowed_loss_pct=2.0, model=model)
    assert metadata["error_before_pct"] == pytest.approx(quantized[1]["error_before_pct"])


def test_other_classes_raise(fitted: TrainResult, graph: onnx.ModelProto):
    card = dataclasses.replace(fitted.card, classes=tuple("abcdefghij"))
    with pytest.raises(ConfigError, match="only digits has 0, 1, 2"):
        quantize(graph, card, DIGITS, allowed_loss_pct=2.0, model=fitted.model)


def test_other_channels_raise(fitted: TrainResult, graph: onnx.ModelProto):
    card = dataclasses.replace(fitted.card, model=dataclasses.replace(fitted.card.model, in_channels=2))
    with pytest.raises(ConfigError, match="digits has 1-channel images, and resnet8 reads 2 channels"):
        quantize(graph, card, DIGITS, allowed_loss_pct=2.0, model=fitted.model)


def test_no_output_and_no_files_are_left(
    fitted: TrainResult,
    graph: onnx.ModelProto,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers, disabled, stages = list(root.handlers), logging.root.manager.disable, []
    on_progress = lambda stage, *_: stages.append(stage)  # noqa: E731
    quantize(graph, fitted.card, DIGITS, allowed_loss_pct=2.0, model=fitted.model, on_progress=on_progress)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
    assert (root.handlers, logging.root.manager.disable) == (handlers, disabled)
    assert list(dict.fromkeys(stages)) == ["calibrating", "evaluating fp32", "evaluating int8"]


def test_damaged_training_images_are_skipped_if_the_call_says_so(tmp_path: Path):
    """The data of training, which did not skip: what the call says about damaged files wins."""
    folder = write_tree(tmp_path / "photos", {"cat": 6, "dog": 6})
    (folder / "cat" / "000.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    trained = RunConfig(model_config("resnet8", num_classes=2), DataConfig(str(folder), image_size=8))
    preprocessing = Preprocessing(8, (0.5,) * 3, (0.2,) * 3)
    card = ModelCard(trained.model, ("cat", "dog"), preprocessing, provenance={"config": to_json(trained)})
    again = DataConfig(str(folder / "../photos"))
    with pytest.raises(BadDataError, match="--on-bad-image skip"):
        _open_splits(card, again, lambda *_: None)
    train, val, _ = _open_splits(card, dataclasses.replace(again, on_bad_image="skip"), lambda *_: None)
    assert (len(train), len(val)) == (7, 2)  # and two test images


@pytest.fixture(scope="module")
def files(fitted: TrainResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the network and the fragile network as model files."""
    folder = tmp_path_factory.mktemp("int8")
    for name, model in (("robust", fitted.model), ("fragile", fragile(fitted.model))):
        save_model(folder / f"{name}.safetensors", model, fitted.card)
    return folder


@pytest.mark.slow
def test_the_command_refuses_a_fragile_network(files: Path, capsys: pytest.CaptureFixture[str]):
    names = (str(files / "fragile.safetensors"), "--out", str(files / "f.onnx"))
    arguments = ["export", *names, "--int8", "--calibrate", "digits"]
    assert main(arguments) == 1
    stderr = capsys.readouterr().err
    assert stderr.startswith("resnetlab: resnet8 in int8: top-1 error ")
    assert stderr.count("\n") == 1
    assert sorted(file.name for file in files.iterdir()) == ["fragile.safetensors", "robust.safetensors"]
    assert main([*arguments, "--allow-loss", "100"]) == 0, capsys.readouterr().err
    assert (files / "f.onnx").exists()


@pytest.mark.slow
@pytest.mark.skipif(not (WEIGHTS.exists() and CIFAR.exists()), reason="needs ../shared/data")
def test_a_public_network_keeps_its_predictions(tmp_path: Path):
    file = tmp_path / "resnet20.safetensors"
    words = ("--mean", ".485", ".456", ".406", "--std", ".229", ".224", ".225", "--zero-channels", "split")
    done = resnetlab("inspect", WEIGHTS, "--save", file, "--classes", "cifar10", *words)
    assert done.returncode == 0, done.stderr
    model, card = load_model(file)
    graph = onnx_model(model, card.preprocessing)
    _, metadata = quantize(graph, card, DataConfig(str(CIFAR)), allowed_loss_pct=0.5, model=model)
    assert metadata["validation_images"] == 5000
    assert metadata["top1_agreement_pct"] >= 99.5
