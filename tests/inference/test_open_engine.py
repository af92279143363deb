"""From a file to its engine: which runtime, what is kept beside the file, and what of that is believed."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.engine_networks import COLOUR, GREY, model_file
from resnetlab.config import ConfigError
from resnetlab.export.export import export
from resnetlab.inference import backend_selection as choice
from resnetlab.inference import model_source as source
from resnetlab.inference import open_engine as opening
from resnetlab.inference import optional_packages as packages
from resnetlab.inference import selection_cache as remembered
from resnetlab.inference.backend_selection import BackendSelection
from resnetlab.inference.engines.base import Backend
from resnetlab.inference.engines.pytorch import TorchEngine
from resnetlab.inference.formats.exported_file import SUFFIXES
from resnetlab.inference.formats.sidecar_cache import SidecarCache
from resnetlab.inference.open_engine import open_engine
from resnetlab.models.model_file import ModelFileError
from resnetlab.system.process_group import ProcessGroup

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")
VIEWS = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def short(monkeypatch) -> Iterator[None]:
    monkeypatch.setattr(choice, "TURN_S", 0.02)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A model file with a choice beside it, and its exports."""
    root = tmp_path_factory.mktemp("made")
    file = model_file(root / "model.safetensors")
    for suffix, kind in SUFFIXES.items():
        export(file, file.with_suffix(suffix), kind)
    said: list[str] = []
    open_engine(file, backend="auto", tell=said.append)
    assert len(said) == 1
    (root / "said").write_text(said[0])
    return root


@pytest.fixture
def copy(made, tmp_path) -> Path:
    """The same, to be changed; its model file."""
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy" / "model.safetensors"


def beside(file: Path) -> Path:
    return file.with_name(f".{file.name}.resnetlab")


def forbidden(*_: object, **__: object):
    raise AssertionError("this was to be remembered")


def test_it_is_measured_once(copy, made, monkeypatch):
    monkeypatch.setattr(opening, "select_backend", forbidden)
    monkeypatch.setattr(source, "onnx_model", forbidden)
    said: list[str] = []
    engine, card = open_engine(copy, backend="auto", tell=said.append)
    first = (made / "said").read_text()
    assert said == [f"{first} (measured before)"]
    assert "ms an image in batches of 1 and 16: " in first
    assert (card.classes[0], engine.backend) == ("cat", first.split()[0].rstrip(";"))
    backends: tuple[Backend, ...] = ("onnxruntime", "openvino")
    for backend in backends:  # nor are they converted again
        assert open_engine(copy, backend=backend)[0].backend == backend


def test_of_several_processes_the_first_chooses_for_all(copy, monkeypatch):
    """Even where nothing can be noted beside the file, and another one would have found otherwise."""
    told = BackendSelection({"1": "torch", "16": "torch"})

    class Second(ProcessGroup):
        def from_first(self, work):
            return told

    monkeypatch.setattr(opening, "select_backend", forbidden)
    monkeypatch.setattr(opening, "load_selection", forbidden)
    said: list[str] = []
    engine, _ = open_engine(copy, backend="auto", tell=said.append, world=Second(1, 2))
    assert (engine.backend, said) == ("torch", ["torch"])
    told = BackendSelection({"1": "a runtime of the first"})
    with pytest.raises(ConfigError, match="computes it by a runtime of the first, and process 1 cannot"):
        open_engine(copy, backend="auto", world=Second(1, 2))


def test_another_situation_is_measured_anew_and_both_are_kept(copy, monkeypatch):
    assert len(SidecarCache(copy).choices()) == 1
    open_engine(copy, backend="auto", cores=1, callers=2)
    assert len(SidecarCache(copy).choices()) == 2
    monkeypatch.setattr(opening, "select_backend", forbidden)
    open_engine(copy, backend="auto", cores=1, callers=2)
    open_engine(copy, backend="auto")
    for change in (
        lambda: monkeypatch.setattr(packages, "versions", lambda: {"torch": "9"}),
        lambda: monkeypatch.setattr(remembered, "cpu_fingerprint", lambda: "another"),
        lambda: model_file(copy, GREY),
    ):
        change()
        with pytest.raises(AssertionError, match="remembered"):
            open_engine(copy, backend="auto")
        monkeypatch.undo()
        monkeypatch.setattr(opening, "select_backend", forbidden)


def test_what_is_known_is_taken_and_nothing_is_measured_for_it(copy, monkeypatch):
    monkeypatch.setattr(opening, "select_backend", forbidden)
    auto, _ = open_engine(copy, backend="auto")
    known, _ = open_engine(copy, backend="known", cores=1, callers=3)  # measured with the cores split otherwise
    assert (known.backend, known.precision) == (auto.backend, auto.precision)
    shutil.rmtree(beside(copy))
    assert isinstance(open_engine(copy, backend="known")[0], TorchEngine)
    assert not beside(copy).exists()


def test_if_nothing_is_said_a_model_file_is_pytorchs_and_an_export_its_own(made):
    assert isinstance(open_engine(made)[0], TorchEngine)  # a run directory
    expected = open_engine(made / "model.safetensors")[0].logits(VIEWS)
    maps, head = open_engine(made)[0].maps(VIEWS), open_engine(made)[0].head
    for suffix, kind in SUFFIXES.items():
        name, backends = f"model{suffix}", source.RUNS[kind]
        engine, card = open_engine(made / name)
        assert engine.backend in backends
        far = 0.05 if engine.precision == "bf16" else 1e-4
        np.testing.assert_allclose(engine.logits(VIEWS), expected, atol=far * np.abs(expected).max())
        assert card.preprocessing == COLOUR
        for backend in backends:
            one, _ = open_engine(made / name, backend=backend)
            assert (one.backend, one.precision) == (backend, "fp32")
            np.testing.assert_allclose(one.logits(VIEWS), expected, atol=1e-4 * np.abs(expected).max())
            np.testing.assert_allclose(one.head, head, rtol=1e-6)
            np.testing.assert_allclose(one.maps(VIEWS), maps, atol=1e-4 * np.abs(maps).max())


def test_a_runtime_that_cannot_compute_a_file_is_a_mistake_in_the_call(made, monkeypatch):
    wrong: list[tuple[str, Backend, str]] = [
        ("model.onnx", "torch", "torch cannot compute an export in the format onnx; onnxruntime or openvino can"),
        ("model.xml", "onnxruntime", "onnxruntime cannot compute an export in the format openvino; openvino can"),
        ("model.pt2", "openvino", "openvino cannot compute an export in the format torch-export; torch can"),
    ]
    for name, backend, message in wrong:
        with pytest.raises(ConfigError, match=f"{name}: {message}"):
            open_engine(made / name, backend=backend)
    with pytest.raises(ConfigError, match="onnxruntime computes on the CPU; for cuda use the backend torch"):
        open_engine(made, backend="onnxruntime", device="cuda")
    monkeypatch.setattr(packages, "installed", lambda backend: False)
    with pytest.raises(ConfigError, match=r"model.xml: needs openvino, on the CPU; pip install 'resnetlab\[export\]'"):
        open_engine(made / "model.xml")
    with pytest.raises(ModelFileError, match="no such file"):
        open_engine(made / "nowhere.onnx")
    with pytest.raises(ModelFileError, match="no such model file"):
        open_engine(made / "nowhere.safetensors", backend="openvino")


def test_with_nothing_else_installed_it_is_pytorch_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "installed", lambda backend: False)
    file = model_file(tmp_path / "model.safetensors")
    assert isinstance(open_engine(file, backend="auto")[0], TorchEngine)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_without_what_converts_the_others_are_left_out_and_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    said: list[str] = []
    engine, _ = open_engine(model_file(tmp_path / "model.safetensors"), backend="auto", tell=said.append)
    assert isinstance(engine, TorchEngine)
    assert "without onnxruntime fp32: " in said[0]
    assert "onnxscript" in said[0]


def foreign(folder: Path, what: str) -> None:
    """Do something to what is kept."""
    notes, graph = folder / "choice.json", folder / "graph.onnx"
    match what:
        case "notes that are no JSON":
            notes.write_bytes(b"\xff{")
        case "notes of another kind":
            notes.write_text("[]")
        case "nested too deep":
            notes.write_text('{"choices":' + "[" * 100_000)
        case "too long":
            notes.write_text(notes.read_text() + " " * 2**21)
        case "of another file":
            notes.write_text(notes.read_text().replace('"file_sha256": "', '"file_sha256": "0'))
        case "a choice of somebody's":
            said = json.loads(notes.read_text())
            said["choices"][0]["choice"] = {"fastest": {"1": "nobody"}}
            notes.write_text(json.dumps(said))
        case "choices that are none":
            notes.write_text(json.dumps(json.loads(notes.read_text()) | {"choices": [3, {"situation": 4}], "graph": 5}))
        case "a folder that others may write":
            folder.chmod(0o777)
        case "notes that others may write":
            notes.chmod(0o666)
        case "a link in place of the notes":
            notes.rename(folder / "else")
            notes.symlink_to("else")
        case "a link in place of the folder":
            folder.rename(folder.with_name("else"))
            folder.symlink_to("else")
        case "a graph cut off":
            graph.write_bytes(graph.read_bytes()[:-9])
        case "another graph":
            graph.write_bytes(b"\x08\x07" + graph.read_bytes())
        case "no graph":
            graph.unlink()
        case "a file in place of the folder":
            shutil.rmtree(folder)
            folder.write_text("")


BELIEVED = ("a graph cut off", "another graph", "no graph")
"""Here the choice holds, and the graph is made again."""
KEPT = ("a folder that others may write", "a link in place of the folder", "a file in place of the folder")
"""Here nothing can be kept, and all is made anew each time."""


OTHERS = (
    "notes that are no JSON",
    "notes of another kind",
    "nested too deep",
    "too long",
    "of another file",
    "a choice of somebody's",
    "choices that are none",
    "notes that others may write",
    "a link in place of the notes",
)
QUICK = ("of another file", "a graph cut off", "notes that others may write")


@pytest.mark.parametrize(
    "what",
    [pytest.param(one, marks=() if one in QUICK else pytest.mark.slow) for one in (*OTHERS, *BELIEVED, *KEPT)],
)
def test_what_is_damaged_or_not_ours_is_made_again(copy, monkeypatch, what):
    expected, _ = open_engine(copy)
    folder = beside(copy)
    foreign(folder, what)
    measured, converted = [], []
    monkeypatch.setattr(opening, "select_backend", lambda *a, **k: measured.append(1) or choice.select_backend(*a, **k))
    convert = source.onnx_model
    monkeypatch.setattr(source, "onnx_model", lambda *a: converted.append(1) or convert(*a))
    for turn in (1, 2):
        engine, _ = open_engine(copy, backend="auto")
        found = engine.logits(VIEWS)
        np.testing.assert_allclose(found, expected.logits(VIEWS), atol=0.05 * np.abs(found).max())
        assert len(measured) == (0 if what in BELIEVED else turn if what in KEPT else 1)
        assert len(converted) <= (turn if what in KEPT else 1)
    if what in KEPT:
        assert folder.is_symlink() or folder.is_file() or folder.stat().st_mode & 0o777 == 0o777
    else:
        assert json.loads((folder / "choice.json").read_text())["choices"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file away")
def test_what_somebody_else_wrote_is_not_believed(copy, monkeypatch):
    os.chown(beside(copy) / "choice.json", 1234, 1234)
    assert SidecarCache(copy).choices() == []
    os.chown(copy, 1234, 1234)  # the model's owner is believed: the model is, too
    assert len(SidecarCache(copy).choices()) == 1


def test_a_file_that_changes_under_an_engine_is_not_mixed_up(copy):
    engine, _ = open_engine(copy, backend="openvino")
    model_file(copy, COLOUR, "resnet14")
    engine.logits(VIEWS)
    with pytest.raises(ConfigError, match="has changed since it was opened; open it again"):
        engine.maps(VIEWS)


def test_pytorchs_threads_are_set_only_if_asked(made):
    torch.set_num_threads(2)
    open_engine(made)
    open_engine(made, callers=2)
    assert torch.get_num_threads() == 2
    open_engine(made, cores=1)
    assert torch.get_num_threads() == 1


@pytest.mark.slow
def test_two_processes_at_once_leave_something_whole(tmp_path):
    file = model_file(tmp_path / "model.safetensors")
    code = f"import resnetlab; print(resnetlab.load({str(file)!r}, backend='auto').engine.backend)"
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=200)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert set(said) <= {"torch", "onnxruntime", "openvino"}
    assert len(SidecarCache(file).choices()) == 1
    assert sorted(path.name for path in beside(file).iterdir()) == ["choice.json", "graph.onnx"]
    assert open_engine(file, backend="auto")[0].logits(VIEWS).shape == (5, 6)
