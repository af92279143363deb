"""One predictor, any runtime: the same labels and drawings from each, in Python and on the command line."""

import json
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import resnetlab
from helpers.small_network import CLASSES, COLOUR, GREY, model_file, network
from resnetlab.cli.main import main
from resnetlab.config import ConfigError
from resnetlab.export.export import export
from resnetlab.inference.engines.base import Backend
from resnetlab.inference.explain import heat_map, render_overlay
from resnetlab.inference.formats.exported_file import SUFFIXES
from resnetlab.inference.open_engine import open_engine
from resnetlab.inference.predictor import Predictor
from resnetlab.models.model_file import ModelCard

pytest.importorskip("captum")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")
FILES = {
    "model.safetensors": ("torch", "onnxruntime", "openvino", "auto", None),
    "model.onnx": ("onnxruntime", "openvino", "auto", None),
    "model.xml": ("openvino", "auto", None),
    "model.pt2": ("torch", "auto", None),
}
WAYS = [(name, backend) for name, backends in FILES.items() for backend in backends]
SHARP = 12
"""Pictures."""


@pytest.fixture(scope="module")
def room(tmp_path_factory) -> Path:
    """A model file, its exports, and pictures."""
    root, chance = tmp_path_factory.mktemp("room"), np.random.default_rng(0)
    file = model_file(root / "model.safetensors")
    for suffix, kind in SUFFIXES.items():
        export(file, file.with_suffix(suffix), kind)
    (root / "pets").mkdir()
    for number in range(SHARP):
        pixels = Image.fromarray(chance.integers(0, 256, (5, 7, 3), dtype=np.uint8))
        pixels.resize((70, 50), Image.Resampling.BICUBIC).save(root / "pets" / f"{number:02}.png")
    return root


@pytest.fixture(autouse=True)
def there(room, monkeypatch):
    monkeypatch.chdir(room)
    monkeypatch.setattr("torch.set_num_threads", lambda threads: None)


@pytest.mark.slow
def test_in_python(room):
    files = sorted(str(file) for file in (room / "pets").iterdir())
    expected = resnetlab.load("model.safetensors").probabilities(files)
    assert len(set(expected.argmax(1))) > 1
    for name, backend in WAYS:
        predictor = resnetlab.load(name, backend=backend)
        found = predictor.probabilities(files)
        far = 0.1 if predictor.engine.precision == "bf16" else 1e-4
        np.testing.assert_allclose(found, expected, atol=far, err_msg=f"{name} {backend}")
        assert predictor(files[0]).label == CLASSES[found[0].argmax()]
        assert repr(predictor) == "Predictor(resnet8, 6 classes, 32 x 32 pixels)"


@pytest.mark.parametrize(("name", "backend"), WAYS)
def test_predict_says_the_same_whatever_computes(room, capsys, name, backend):
    def said(*words: str) -> list[dict]:
        assert main(["predict", *words, "pets", "--json"]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    expected = said("model.safetensors", "--backend", "torch")
    found = said(name, *(["--backend", backend] if backend else []))
    assert len(found) == SHARP
    for one, other in zip(found, expected, strict=True):
        assert one["path"] == other["path"]
        assert one["probability"] == pytest.approx(other["probability"], abs=0.1)
        close = {each["class"] for each in other["top"] if each["probability"] > other["probability"] - 0.1}
        assert one["label"] in close  # and that is a set of one but where bf16 could not tell


def test_what_auto_finds_is_said_once_on_stderr_and_known_from_then_on(tmp_path, room, capsys, monkeypatch):
    monkeypatch.setattr("resnetlab.inference.backend_selection.TURN_S", 0.02)
    file = model_file(tmp_path / "new.safetensors")
    call = ["predict", str(file), "pets/00.png", "--json"]
    lines = []
    for words in ([], ["--backend", "auto"], ["--backend", "auto"], []):
        assert main([*call, *words]) == 0
        lines.append(capsys.readouterr().err)
    first, second, third, fourth = lines
    assert (first, fourth) == ("", "")
    assert "; ms an image in batches of 1 and 16: " in second
    assert third == second.removesuffix("\n") + " (measured before)\n"


def test_a_backend_that_cannot_is_a_mistake_in_the_call(capsys):
    assert main(["predict", "model.xml", "pets/00.png", "--backend", "torch"]) == 2
    said = "resnetlab: model.xml: torch cannot compute an export in the format openvino; openvino can\n"
    assert capsys.readouterr().err == said
    assert main(["predict", "model.onnx", "pets/00.png", "--backend", "tensorrt"]) == 2
    assert main(["predict", "nowhere.onnx", "pets/00.png"]) == 2
    shutil.copy("pets/00.png", "picture.onnx")
    capsys.readouterr()
    assert main(["predict", "picture.onnx", "pets/00.png"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("preprocessing", [COLOUR, pytest.param(GREY, marks=pytest.mark.slow)])
def test_heat_is_captums_up_to_its_scale(tmp_path, preprocessing):
    file = model_file(tmp_path / "model.safetensors", preprocessing)
    views = np.random.default_rng(0).integers(
        0, 256, (3, *[preprocessing.image_size] * 2, len(preprocessing.mean)), np.uint8
    )
    by_captum, _ = open_engine(file)
    backends: tuple[Backend, ...] = ("onnxruntime", "openvino")
    for backend in backends:
        engine, _ = open_engine(file, backend=backend)
        hottest = []
        for view in views:
            for label in range(len(CLASSES)):
                expected, found = heat_map(by_captum, view, label), heat_map(engine, view, label)
                area = found.numel()  # the mean of a gradient over the map; the weight itself is so many times that
                torch.testing.assert_close(found / area, expected, rtol=1e-3, atol=1e-4 * float(by_captum.head.max()))
                hottest.append(float(expected.max()))
        assert max(hottest) > 0.01


def test_an_exported_network_explains_itself_without_captum(room, monkeypatch, capsys):
    data = (room / "pets" / "00.png").read_bytes()
    expected = resnetlab.load("model.safetensors")
    drawn = np.asarray(render_overlay(expected, data, expected.view(data), expected(data))).astype(int)
    monkeypatch.setitem(__import__("sys").modules, "captum.attr", None)
    for name in ("model.onnx", "model.xml"):
        predictor = resnetlab.load(name, backend="openvino")
        page = render_overlay(predictor, data, predictor.view(data), predictor(data))
        assert np.abs(np.asarray(page).astype(int) - drawn).max() <= 2
        assert main(["predict", name, "pets/00.png", "--backend", "openvino", "--explain", "--out", "why"]) == 0
        with Image.open("why/00.png") as saved:
            assert saved.size == page.size
    capsys.readouterr()
    assert (
        main(["predict", "model.safetensors", "pets/00.png", "--backend", "torch", "--explain", "--out", "never"]) == 2
    )
    assert "explanations need captum" in capsys.readouterr().err
    assert not (room / "never").exists()


def test_a_predictor_of_an_engine_has_no_network_of_pytorchs(room):
    with pytest.raises(AttributeError, match="openvino computes a graph"):
        _ = resnetlab.load("model.xml").model
    engine, card = open_engine("model.xml")
    with pytest.raises(ValueError, match="resnet8 has 6 outputs, and 2 classes have names"):
        Predictor(engine, ModelCard(card.model, ("a", "b"), COLOUR))
    model = network()
    assert Predictor(model, ModelCard(model.config, CLASSES, COLOUR)).model is model  # as it is: not even a copy


def test_a_picture_goes_the_same_way_to_every_runtime(room):
    picture = BytesIO((room / "pets" / "03.png").read_bytes())
    views = [resnetlab.load(name).view(picture.getvalue()) for name in FILES]
    assert all(np.array_equal(view, views[0]) for view in views)


def test_an_unknown_backend_in_python(room):
    with pytest.raises(ConfigError, match="tensorrt cannot compute"):
        resnetlab.load("model.safetensors", backend="tensorrt")  # pyright: ignore[reportArgumentType]
