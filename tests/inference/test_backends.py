"""Every runtime gives the same predictions and overlays, in Python and on the command line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import resnetlab
from helpers.small_network import CLASSES, COLOUR, GREY, model_file, network
from resnetlab.cli.main import main
from resnetlab.config import ConfigError
from resnetlab.inference.engines.base import Backend
from resnetlab.inference.explain import heat_map, render_overlay
from resnetlab.inference.open_engine import open_engine
from resnetlab.inference.predictor import Predictor
from resnetlab.models.model_file import ModelCard

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")
FILES = {
    "model.safetensors": ("torch", "onnxruntime", "openvino", "auto", None),
    "model.onnx": ("onnxruntime", "openvino", "auto", None),
    "model.xml": ("openvino", "auto", None),
    "model.pt2": ("torch", "auto", None),
}
COMBINATIONS = [(name, backend) for name, backends in FILES.items() for backend in backends]
NUM_IMAGES = 12


@pytest.fixture(scope="module")
def folder(small_exports, tmp_path_factory) -> Path:
    """A folder with a model file, its exports, and images."""
    root, rng = tmp_path_factory.mktemp("folder") / "folder", np.random.default_rng(0)
    shutil.copytree(small_exports, root)
    (root / "pets").mkdir()
    for number in range(NUM_IMAGES):
        pixels = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
        pixels.resize((70, 50), Image.Resampling.BICUBIC).save(root / "pets" / f"{number:02}.png")
    return root


@pytest.fixture(autouse=True)
def working_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr("torch.set_num_threads", lambda threads: None)


@pytest.mark.slow
def test_in_python(folder):
    files = sorted(str(file) for file in (folder / "pets").iterdir())
    expected = resnetlab.load("model.safetensors").probabilities(files)
    assert len(set(expected.argmax(1))) > 1
    for name, backend in COMBINATIONS:
        predictor = resnetlab.load(name, backend=backend)
        probabilities = predictor.probabilities(files)
        tolerance = 0.1 if predictor.engine.precision == "bf16" else 1e-4
        np.testing.assert_allclose(probabilities, expected, atol=tolerance, err_msg=f"{name} {backend}")
        assert predictor(files[0]).label == CLASSES[probabilities[0].argmax()]
        assert repr(predictor) == "Predictor(resnet8, 6 classes, 32 x 32 pixels)"


def predict(capsys, *arguments: str) -> list[dict]:
    assert main(["predict", *arguments, "pets", "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture(scope="module")
def of_the_model_file():
    """What the command prints with PyTorch, filled by the first test that asks for it."""
    return []


@pytest.mark.parametrize(("name", "backend"), COMBINATIONS)
def test_the_command_prints_the_same_predictions(of_the_model_file, capsys, name, backend):
    of_the_model_file[:] = expected = of_the_model_file or predict(capsys, "model.safetensors", "--backend", "torch")
    found = predict(capsys, name, *(["--backend", backend] if backend else []))
    assert len(found) == NUM_IMAGES
    for record, other in zip(found, expected, strict=True):
        assert record["path"] == other["path"]
        assert record["probability"] == pytest.approx(other["probability"], abs=0.1)
        close = {each["class"] for each in other["top"] if each["probability"] > other["probability"] - 0.1}
        assert record["label"] in close  # one class, unless bf16 swaps nearly equal ones


def test_auto_logs_its_selection_which_later_runs_use(tmp_path, folder, capsys, monkeypatch):
    monkeypatch.setattr("resnetlab.inference.backend_selection.MEASURE_S", 0.02)
    file = model_file(tmp_path / "new.safetensors")
    call = ["predict", str(file), "pets/00.png", "--json"]
    lines = []
    for options in ([], ["--backend", "auto"], ["--backend", "auto"], []):
        assert main([*call, *options]) == 0
        lines.append(capsys.readouterr().err)
    first, second, third, fourth = lines
    assert (first, fourth) == ("", "")
    assert "; ms an image in batches of 1 and 16: " in second
    assert third == second.removesuffix("\n") + " (measured before)\n"


def test_a_wrong_backend_is_a_usage_error(capsys):
    assert main(["predict", "model.xml", "pets/00.png", "--backend", "torch"]) == 2
    message = "resnetlab: model.xml: torch cannot compute an export in the format openvino; openvino can\n"
    assert capsys.readouterr().err == message
    assert main(["predict", "model.onnx", "pets/00.png", "--backend", "tensorrt"]) == 2
    assert main(["predict", "nowhere.onnx", "pets/00.png"]) == 2
    shutil.copy("pets/00.png", "image.onnx")
    capsys.readouterr()
    assert main(["predict", "image.onnx", "pets/00.png"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("preprocessing", [COLOUR, pytest.param(GREY, marks=pytest.mark.slow)])
def test_heat_maps_do_not_depend_on_the_runtime(tmp_path, preprocessing):
    file = model_file(tmp_path / "model.safetensors", preprocessing)
    views = np.random.default_rng(0).integers(
        0, 256, (3, *[preprocessing.image_size] * 2, len(preprocessing.mean)), np.uint8
    )
    pytorch, _ = open_engine(file)
    backends: tuple[Backend, ...] = ("onnxruntime", "openvino")
    for backend in backends:
        engine, _ = open_engine(file, backend=backend)
        maxima = []
        for view in views:
            for label in range(len(CLASSES)):
                expected, heat = heat_map(pytorch, view, label), heat_map(engine, view, label)
                atol = 1e-4 * float(pytorch.head_weights.max())
                np.testing.assert_allclose(heat, expected, rtol=1e-3, atol=atol)
                maxima.append(float(expected.max()))
        assert max(maxima) > 0.01


def overlay_of(predictor: Predictor, encoded: bytes) -> np.ndarray:
    overlay = render_overlay(predictor, predictor(encoded), encoded=encoded, view=predictor.preprocess(encoded))
    return np.asarray(overlay).astype(int)


def test_overlays_do_not_depend_on_the_runtime(folder, capsys):
    encoded = (folder / "pets" / "00.png").read_bytes()
    expected = overlay_of(resnetlab.load("model.safetensors"), encoded)
    for name in ("model.onnx", "model.xml"):
        overlay = overlay_of(resnetlab.load(name, backend="openvino"), encoded)
        assert np.abs(overlay - expected).max() <= 2
    for name, backend in (("model.onnx", "openvino"), ("model.xml", "openvino"), ("model.safetensors", "torch")):
        assert main(["predict", name, "pets/00.png", "--backend", backend, "--explain", "--out", "why"]) == 0
        with Image.open("why/00.png") as saved:
            assert np.abs(np.asarray(saved).astype(int) - expected).max() <= 2
    capsys.readouterr()


def test_the_pytorch_network_of_a_predictor(folder):
    with pytest.raises(AttributeError, match="the backend openvino computes a graph"):
        _ = resnetlab.load("model.xml").model
    engine, card = open_engine("model.xml")
    with pytest.raises(ValueError, match="resnet8 has 6 outputs and 2 class names"):
        Predictor(engine, ModelCard(card.model, ("a", "b"), COLOUR))
    model = network()
    assert Predictor(model, ModelCard(model.config, CLASSES, COLOUR)).model is model  # without a copy


def test_preprocessing_does_not_depend_on_the_runtime(folder):
    encoded = (folder / "pets" / "03.png").read_bytes()
    views = [resnetlab.load(name).preprocess(encoded) for name in FILES]
    assert all(np.array_equal(view, views[0]) for view in views)


def test_an_unknown_backend_in_python(folder):
    with pytest.raises(ConfigError, match="tensorrt cannot compute"):
        resnetlab.load("model.safetensors", backend="tensorrt")  # pyright: ignore[reportArgumentType]
