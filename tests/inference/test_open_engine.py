"""`open_engine`: the selected runtime, what the cache stores beside the file, and when it is trusted."""

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

from helpers.small_network import COLOUR, GREY, model_file
from resnetlab.config import ConfigError
from resnetlab.inference import backend_selection, engine_factory, optional_packages, selection_cache
from resnetlab.inference import open_engine as module
from resnetlab.inference.backend_selection import BackendSelection
from resnetlab.inference.engines.base import Backend
from resnetlab.inference.engines.pytorch import TorchEngine
from resnetlab.inference.formats.exported_file import SUFFIXES
from resnetlab.inference.formats.sidecar_cache import SidecarCache
from resnetlab.inference.open_engine import open_engine
from resnetlab.models.model_file import ModelFileError, load_model
from resnetlab.system.process_group import ProcessGroup

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def short_measurement(monkeypatch) -> Iterator[None]:
    monkeypatch.setattr(backend_selection, "MEASURE_S", 0.02)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def exports(small_exports, tmp_path_factory) -> Path:
    """A folder with a model file, a stored selection, and its exports."""
    root = shutil.copytree(small_exports, tmp_path_factory.mktemp("exports") / "exports")
    file = root / "model.safetensors"
    lines: list[str] = []
    open_engine(file, backend="auto", log=lines.append)
    assert len(lines) == 1
    (root / "log").write_text(lines[0])
    return root


@pytest.fixture
def copy(exports, tmp_path) -> Path:
    """The model file in a copy of that folder."""
    shutil.copytree(exports, tmp_path / "copy")
    return tmp_path / "copy" / "model.safetensors"


@pytest.fixture(scope="module")
def graph(exports):
    """The graph of the model file, which takes seconds to convert."""
    model, card = load_model(exports / "model.safetensors")
    return engine_factory.onnx_model(model, card.preprocessing)


def cache_folder(file: Path) -> Path:
    return file.with_name(f".{file.name}.resnetlab")


def not_cached(*_: object, **__: object):
    raise AssertionError("not read from the cache")


def test_auto_measures_once(copy, exports, monkeypatch):
    monkeypatch.setattr(module, "select_backend", not_cached)
    monkeypatch.setattr(engine_factory, "onnx_model", not_cached)
    lines: list[str] = []
    engine, card = open_engine(copy, backend="auto", log=lines.append)
    first = (exports / "log").read_text()
    assert lines == [f"{first} (measured before)"]
    assert "ms an image in batches of 1 and 16: " in first
    assert (card.classes[0], engine.backend) == ("cat", first.split()[0].rstrip(";"))
    backends: tuple[Backend, ...] = ("onnxruntime", "openvino")
    for backend in backends:  # without another conversion
        assert open_engine(copy, backend=backend)[0].backend == backend


def test_the_first_process_selects_for_all(copy, monkeypatch):
    """Also if the cache is not writable, and this process would select another runtime."""
    selection = BackendSelection({"1": "torch", "16": "torch"})

    class Second(ProcessGroup):
        def run_on_first(self, work):
            return selection

    monkeypatch.setattr(module, "select_backend", not_cached)
    monkeypatch.setattr(module, "load_selection", not_cached)
    lines: list[str] = []
    engine, _ = open_engine(copy, backend="auto", log=lines.append, process_group=Second(1, 2))
    assert (engine.backend, lines) == ("torch", ["torch"])
    selection = BackendSelection({"1": "another runtime"})
    with pytest.raises(ConfigError, match="the first process uses another runtime, which process 1 does not have"):
        open_engine(copy, backend="auto", process_group=Second(1, 2))


def test_other_conditions_are_measured_separately(copy, monkeypatch):
    assert len(SidecarCache(copy).selections()) == 1
    open_engine(copy, backend="auto", cores=1, callers=2)
    assert len(SidecarCache(copy).selections()) == 2
    monkeypatch.setattr(module, "select_backend", not_cached)
    open_engine(copy, backend="auto", cores=1, callers=2)
    open_engine(copy, backend="auto")
    for change in (
        lambda: monkeypatch.setattr(optional_packages, "versions", lambda: {"torch": "9"}),
        lambda: monkeypatch.setattr(selection_cache, "cpu_fingerprint", lambda: "another"),
        lambda: model_file(copy, GREY),
    ):
        change()
        with pytest.raises(AssertionError, match="not read from the cache"):
            open_engine(copy, backend="auto")
        monkeypatch.undo()
        monkeypatch.setattr(module, "select_backend", not_cached)


def test_an_export_has_a_default_runtime(exports, monkeypatch):
    """Two runtimes read ONNX; an evaluation without a choice computes in the precision of the file."""
    monkeypatch.setattr(module, "select_backend", not_cached)
    monkeypatch.setattr(module, "load_selection", not_cached)
    for name, backend in (("model.onnx", "onnxruntime"), ("model.xml", "openvino")):
        engine, _ = open_engine(exports / name)
        assert (engine.backend, engine.precision) == (backend, "fp32")
    monkeypatch.setattr(optional_packages, "installed", lambda backend: backend != "onnxruntime")
    assert open_engine(exports / "model.onnx")[0].backend == "openvino"


def test_cached_never_measures(copy, monkeypatch):
    monkeypatch.setattr(module, "select_backend", not_cached)
    auto, _ = open_engine(copy, backend="auto")
    cached, _ = open_engine(copy, backend="cached", cores=1, callers=3)  # measured with other numbers of threads
    assert (cached.backend, cached.precision) == (auto.backend, auto.precision)
    shutil.rmtree(cache_folder(copy))
    assert isinstance(open_engine(copy, backend="cached")[0], TorchEngine)
    assert not cache_folder(copy).exists()


def test_default_backends(exports):
    assert isinstance(open_engine(exports)[0], TorchEngine)  # a run directory
    expected = open_engine(exports / "model.safetensors")[0].logits(IMAGES)
    feature_maps, weights = open_engine(exports)[0].feature_maps(IMAGES), open_engine(exports)[0].head_weights
    for suffix, kind in SUFFIXES.items():
        name, backends = f"model{suffix}", engine_factory.FORMAT_BACKENDS[kind]
        engine, card = open_engine(exports / name)
        assert engine.backend in backends
        tolerance = 0.05 if engine.precision == "bf16" else 1e-4
        np.testing.assert_allclose(engine.logits(IMAGES), expected, atol=tolerance * np.abs(expected).max())
        assert card.preprocessing == COLOUR
        for backend in backends:
            other, _ = open_engine(exports / name, backend=backend)
            assert (other.backend, other.precision) == (backend, "fp32")
            np.testing.assert_allclose(other.logits(IMAGES), expected, atol=1e-4 * np.abs(expected).max())
            np.testing.assert_allclose(other.head_weights, weights, rtol=1e-6)
            np.testing.assert_allclose(other.feature_maps(IMAGES), feature_maps, atol=1e-4 * np.abs(feature_maps).max())


def test_backends_that_cannot_compute_a_file(exports, monkeypatch):
    wrong: list[tuple[str, Backend, str]] = [
        ("model.onnx", "torch", "torch cannot compute an export in the format onnx; onnxruntime or openvino can"),
        ("model.xml", "onnxruntime", "onnxruntime cannot compute an export in the format openvino; openvino can"),
        ("model.pt2", "openvino", "openvino cannot compute an export in the format torch-export; torch can"),
    ]
    for name, backend, message in wrong:
        with pytest.raises(ConfigError, match=f"{name}: {message}"):
            open_engine(exports / name, backend=backend)
    with pytest.raises(ConfigError, match="onnxruntime computes on the CPU; for cuda use the backend torch"):
        open_engine(exports, backend="onnxruntime", device="cuda")
    monkeypatch.setattr(optional_packages, "installed", lambda backend: False)
    with pytest.raises(ConfigError, match=r"model.xml: needs openvino, on the CPU; pip install 'resnetlab\[export\]'"):
        open_engine(exports / "model.xml")
    with pytest.raises(ModelFileError, match="no such file"):
        open_engine(exports / "nowhere.onnx")
    with pytest.raises(ModelFileError, match="no such model file"):
        open_engine(exports / "nowhere.safetensors", backend="openvino")


def test_without_optional_packages_pytorch_is_used_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(optional_packages, "installed", lambda backend: False)
    file = model_file(tmp_path / "model.safetensors")
    assert isinstance(open_engine(file, backend="auto")[0], TorchEngine)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_without_onnxscript_the_other_backends_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    lines: list[str] = []
    engine, _ = open_engine(model_file(tmp_path / "model.safetensors"), backend="auto", log=lines.append)
    assert isinstance(engine, TorchEngine)
    assert "without onnxruntime fp32: " in lines[0]
    assert "onnxscript" in lines[0]


def tamper(folder: Path, change: str) -> None:
    """Change the content of the cache."""
    index, graph = folder / "choice.json", folder / "graph.onnx"
    match change:
        case "index is not JSON":
            index.write_bytes(b"\xff{")
        case "index is a list":
            index.write_text("[]")
        case "index is nested too deeply":
            index.write_text('{"choices":' + "[" * 100_000)
        case "index is too long":
            index.write_text(index.read_text() + " " * 2**21)
        case "index of another file":
            index.write_text(index.read_text().replace('"file_sha256": "', '"file_sha256": "0'))
        case "unknown backend":
            content = json.loads(index.read_text())
            content["choices"][0]["choice"] = {"fastest": {"1": "unknown"}}
            index.write_text(json.dumps(content))
        case "invalid selections":
            index.write_text(json.dumps(json.loads(index.read_text()) | {"choices": [3, {"situation": 4}], "graph": 5}))
        case "folder is writable by others":
            folder.chmod(0o777)
        case "index is writable by others":
            index.chmod(0o666)
        case "index is a link":
            index.rename(folder / "else")
            index.symlink_to("else")
        case "folder is a link":
            folder.rename(folder.with_name("else"))
            folder.symlink_to("else")
        case "graph is truncated":
            graph.write_bytes(graph.read_bytes()[:-9])
        case "graph has changed":
            graph.write_bytes(b"\x08\x07" + graph.read_bytes())
        case "graph is missing":
            graph.unlink()
        case "folder is a file":
            shutil.rmtree(folder)
            folder.write_text("")


GRAPH_ONLY = ("graph is truncated", "graph has changed", "graph is missing")
"""The selection stays valid, and the graph is exported again."""
NOT_WRITABLE = ("folder is writable by others", "folder is a link", "folder is a file")
"""Nothing can be stored, so every call measures and exports again."""

INDEX = (
    "index is not JSON",
    "index is a list",
    "index is nested too deeply",
    "index is too long",
    "index of another file",
    "unknown backend",
    "invalid selections",
    "index is writable by others",
    "index is a link",
)
QUICK = ("index of another file", "graph is truncated", "index is writable by others")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(change, marks=() if change in QUICK else pytest.mark.slow)
        for change in (*INDEX, *GRAPH_ONLY, *NOT_WRITABLE)
    ],
)
def test_an_invalid_cache_is_ignored_and_replaced(copy, graph, monkeypatch, change):
    expected, _ = open_engine(copy)
    folder = cache_folder(copy)
    tamper(folder, change)
    measured, converted = [], []
    monkeypatch.setattr(
        module, "select_backend", lambda *a, **k: measured.append(1) or backend_selection.select_backend(*a, **k)
    )
    monkeypatch.setattr(engine_factory, "onnx_model", lambda *a: converted.append(1) or graph)
    for turn in (1, 2):
        engine, _ = open_engine(copy, backend="auto")
        logits = engine.logits(IMAGES)
        np.testing.assert_allclose(logits, expected.logits(IMAGES), atol=0.05 * np.abs(logits).max())
        assert len(measured) == (0 if change in GRAPH_ONLY else turn if change in NOT_WRITABLE else 1)
        assert len(converted) <= (turn if change in NOT_WRITABLE else 1)
    if change in NOT_WRITABLE:
        assert folder.is_symlink() or folder.is_file() or folder.stat().st_mode & 0o777 == 0o777
    else:
        assert json.loads((folder / "choice.json").read_text())["choices"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file away")
def test_files_of_another_owner_are_not_trusted(copy, monkeypatch):
    os.chown(cache_folder(copy) / "choice.json", 1234, 1234)
    assert SidecarCache(copy).selections() == []
    os.chown(copy, 1234, 1234)  # the owner of the model file is trusted
    assert len(SidecarCache(copy).selections()) == 1


def test_a_file_that_changes_while_an_engine_is_open_is_an_error(copy):
    engine, _ = open_engine(copy, backend="openvino")
    model_file(copy, COLOUR, "resnet14")
    engine.logits(IMAGES)
    with pytest.raises(ConfigError, match="has changed since it was opened; open it again"):
        engine.feature_maps(IMAGES)


def test_pytorch_threads_are_set_only_by_cores(exports):
    torch.set_num_threads(2)
    open_engine(exports)
    open_engine(exports, callers=2)
    assert torch.get_num_threads() == 2
    open_engine(exports, cores=1)
    assert torch.get_num_threads() == 1


@pytest.mark.slow
def test_concurrent_processes_write_a_valid_cache(tmp_path):
    file = model_file(tmp_path / "model.safetensors")
    code = (
        "import resnetlab; from resnetlab.inference import backend_selection; backend_selection.MEASURE_S = 0.02\n"
        f"print(resnetlab.load({str(file)!r}, backend='auto').engine.backend)"
    )
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=200)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert set(outputs) <= {"torch", "onnxruntime", "openvino"}
    assert len(SidecarCache(file).selections()) == 1
    assert sorted(path.name for path in cache_folder(file).iterdir()) == ["choice.json", "graph.onnx"]
    assert open_engine(file, backend="auto")[0].logits(IMAGES).shape == (5, 6)
