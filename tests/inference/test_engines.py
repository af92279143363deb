"""Each runtime against the plain network: answers, maps, head; threads; and what is told to nobody."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.engine_networks import COLOUR, GREY, PIXELS, model_file
from resnetlab.config import ConfigError
from resnetlab.data.transforms import normalise
from resnetlab.inference import optional_packages
from resnetlab.inference.backend_selection import Candidate
from resnetlab.inference.engines.base import Engine
from resnetlab.inference.engines.onnx_runtime import OnnxEngine
from resnetlab.inference.engines.openvino_runtime import OpenVinoEngine
from resnetlab.inference.model_source import ModelFileSource
from resnetlab.models.model_file import load_model

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")
CHANCE = np.random.default_rng(0)
CPU = torch.device("cpu")
BACKENDS = ("torch", "onnxruntime", "openvino")


def pictures(preprocessing, count: int) -> np.ndarray:
    """Smooth ones: noise is all alike to a network."""
    size, channels = preprocessing.image_size, len(preprocessing.mean)
    coarse = torch.from_numpy(CHANCE.integers(0, 256, (count, channels, 4, 4)).astype(np.float32))
    fine = torch.nn.functional.interpolate(coarse, size, mode="bilinear")
    return fine.permute(0, 2, 3, 1).round().to(torch.uint8).numpy()


@torch.no_grad()
def plainly(path: Path, views: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits and last map of the network as training left it: neither folded nor exported."""
    model, card = load_model(path)
    images = normalise(torch.from_numpy(views).permute(0, 3, 1, 2), card.preprocessing)
    *_, maps = model.features(images).values()
    return model(images).numpy(), maps.numpy()


def engines(path: Path, **threads: int) -> dict[str, Engine]:
    source, split = ModelFileSource(path), {"cores": 1, "callers": 1} | threads
    return {name: source.engine(Candidate(name), device=CPU, **split) for name in BACKENDS}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return model_file(tmp_path_factory.mktemp("small") / "model.safetensors")


KINDS = {
    "option A": (COLOUR, "resnet8", {}),
    "grey": (GREY, "resnet8", {}),
    "a mean for each pixel": (PIXELS, "resnet8", {}),
    "plain, without normalisation": (COLOUR, "plain8", {"norm": "none"}),
    "bottlenecks and projections": (COLOUR, "resnet11", {"block": "bottleneck", "shortcut": "project"}),
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind == "grey" else pytest.mark.slow) for kind in KINDS]
)
def test_every_runtime_computes_the_network(tmp_path, kind):
    preprocessing, name, changes = KINDS[kind]
    path = model_file(tmp_path / "model.safetensors", preprocessing, name, **changes)
    views = pictures(preprocessing, 9)
    logits, maps = plainly(path, views)
    assert np.ptp(logits, axis=0).min() > 0.02
    for backend, engine in engines(path).items():
        assert (engine.backend, engine.precision) == (backend, "fp32")
        for some in (slice(0, 9), slice(2, 3), slice(3, 7)):
            found = engine.logits(views[some])
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, logits[some], rtol=1e-4, atol=1e-4 * np.abs(logits).max())
        np.testing.assert_allclose(engine.maps(views), maps, rtol=1e-4, atol=1e-4 * np.abs(maps).max())
        np.testing.assert_allclose(engine.head, load_model(path)[0].fc.weight.detach().numpy(), rtol=1e-6)


@pytest.mark.parametrize("callers", [1, 3])
def test_threads_share_an_engine(small, callers):
    views = pictures(COLOUR, 12)
    for backend, engine in engines(small, callers=callers).items():
        alone = [engine.logits(views[at : at + 1]) for at in range(12)]
        pairs = [engine.logits(views[at : at + 2]) for at in range(11)]
        wrong = []

        def work(first: int, engine=engine, alone=alone, pairs=pairs, wrong=wrong) -> None:
            for at in (number % 11 for number in range(first, first + 22)):
                one, two = engine.logits(views[at : at + 1]), engine.logits(views[at : at + 2])
                if not (np.array_equal(one, alone[at]) and np.array_equal(two, pairs[at])):
                    wrong.append(at)

        threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong, backend


def test_an_answer_is_kept_by_whoever_got_it(small):
    """A runtime that gave out its own memory would write over it in the next call."""
    views = pictures(COLOUR, 2)
    for engine in engines(small).values():
        first = engine.logits(views[:1])
        kept, maps = first.copy(), engine.maps(views[:1])
        also = maps.copy()
        engine.logits(views[1:])
        engine.maps(views[1:])
        assert np.array_equal(first, kept)
        assert np.array_equal(maps, also)


def test_the_last_map_is_made_only_when_it_is_asked_for(small):
    graph = ModelFileSource(small).graph()
    asked = []

    def read() -> bytes:
        asked.append(1)
        return graph

    views = pictures(COLOUR, 2)
    onnx = OnnxEngine(read, "fp32", cores=1, callers=1)
    onnx.logits(views)
    assert len(asked) == 1
    assert onnx.maps(views).shape == (2, 64, 8, 8)
    assert onnx.head.shape == (6, 64)
    assert len(asked) == 2
    openvino = OpenVinoEngine(lambda: (read(), b""), "fp32", cores=1, callers=1)
    openvino.logits(views)
    assert len(asked) == 3


def test_bf16_is_what_it_says(small):
    views = pictures(COLOUR, 8)
    logits, maps = plainly(small, views)
    source = ModelFileSource(small)
    engine = source.engine(Candidate("openvino", "bf16"), 1, 1, CPU)
    assert engine.precision == "bf16"
    far = np.abs(engine.logits(views) - logits).max()
    assert 1e-3 < far < 0.1 * np.abs(logits).max()
    np.testing.assert_allclose(engine.maps(views), maps, atol=0.1 * np.abs(maps).max())


@pytest.mark.slow
def test_a_quantised_graph_has_its_map_and_head(small, tmp_path):
    """As onnxruntime's quantiser makes it: weights int8 per channel, a pair of nodes before each operator."""
    from onnxruntime import quantization

    (tmp_path / "graph.onnx").write_bytes(ModelFileSource(small).graph())
    views = pictures(COLOUR, 32)

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [{"images": view[None]} for view in views]

        def get_next(self):  # pyright: ignore[reportIncompatibleMethodOverride]  # `None` ends it
            return self.left.pop() if self.left else None

    quantization.quantize_static(
        tmp_path / "graph.onnx",
        tmp_path / "int8.onnx",
        Reader(),
        per_channel=True,
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "Gemm", "MatMul"],
    )
    graph = (tmp_path / "int8.onnx").read_bytes()
    _, maps = plainly(small, views)
    head = load_model(small)[0].fc.weight.detach().numpy()
    for engine in (
        OnnxEngine(lambda: graph, "int8", cores=1, callers=1),
        OpenVinoEngine(lambda: (graph, b""), "int8", cores=1, callers=1),
    ):
        assert 0 < np.abs(engine.head - head).max() < 0.02 * np.abs(head).max()
        assert 0 < np.abs(engine.maps(views) - maps).mean() < 0.05 * maps.std()


def test_a_runtime_that_is_missing_is_told(small, monkeypatch):
    for backend in ("onnxruntime", "openvino"):
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, backend, None)
            assert not optional_packages.installed(backend)
            with pytest.raises(ConfigError, match=rf"the backend {backend} needs its package .*resnetlab\[export\]"):
                ModelFileSource(small).engine(Candidate(backend), 1, 1, CPU)


def test_openvino_is_loaded_without_its_telemetry(tmp_path):
    """Its import leaves an identity and counts in the home folder, and sends them; ours does not."""
    code = (
        "import sys; from resnetlab.inference import optional_packages as packages; packages.openvino().Core()\n"
        "print(sorted(name for name in sys.modules if name.startswith('openvino_telemetry')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"
    assert list(tmp_path.iterdir()) == []


def test_a_signal_after_openvino_ends_nothing():
    """Its plugin may be unloaded in any thread; then the stack that it gave for signal handlers is gone."""
    code = (
        "import gc, os, signal, threading\n"
        "from resnetlab.inference import optional_packages as packages\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('heard', flush=True))\n"
        "cores = [packages.openvino_core()]\n"
        "packages.openvino_core.cache_clear()\n"
        "thread = threading.Thread(target=cores.clear); thread.start(); thread.join()\n"
        "gc.collect(); os.kill(os.getpid(), signal.SIGTERM); print('alive')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "heard\nalive\n"), done
