"""Each runtime against PyTorch: logits, feature maps, head weights, threads; missing packages and side effects."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.small_network import COLOUR, GREY, PIXEL_MEAN, model_file
from resnetlab.config import ConfigError
from resnetlab.data.transforms import normalise
from resnetlab.inference import optional_packages
from resnetlab.inference.backend_selection import Candidate
from resnetlab.inference.engine_factory import ModelFileEngineFactory
from resnetlab.inference.engines.base import Engine
from resnetlab.inference.engines.onnx_runtime import OnnxEngine
from resnetlab.inference.engines.openvino_runtime import OpenVinoEngine, has_bf16
from resnetlab.models.model_file import load_model

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")
RNG = np.random.default_rng(0)
BACKENDS = ("torch", "onnxruntime", "openvino")


def smooth_images(preprocessing, count: int) -> np.ndarray:
    """Return random smooth images; the logits of noise images hardly differ."""
    size, channels = preprocessing.image_size, len(preprocessing.mean)
    coarse = torch.from_numpy(RNG.integers(0, 256, (count, channels, 4, 4)).astype(np.float32))
    fine = torch.nn.functional.interpolate(coarse, size, mode="bilinear")
    return fine.permute(0, 2, 3, 1).round().to(torch.uint8).numpy()


@torch.no_grad()
def reference(path: Path, views: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return logits and last feature maps of the network without fused BN and without export."""
    model, card = load_model(path)
    images = normalise(torch.from_numpy(views).permute(0, 3, 1, 2), card.preprocessing)
    *_, feature_maps = model.features(images).values()
    return model(images).numpy(), feature_maps.numpy()


def create_engines(path: Path, callers: int = 1) -> dict[str, Engine]:
    factory = ModelFileEngineFactory(path)
    return {name: factory.create(Candidate(name), callers=callers) for name in BACKENDS}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return model_file(tmp_path_factory.mktemp("small") / "model.safetensors")


NETWORKS = {  # colour images and option A: `test_default_backends` in test_open_engine.py
    "grey": (GREY, "resnet8", {}),
    "pixel mean": (PIXEL_MEAN, "resnet8", {}),
    "plain, without normalisation": (COLOUR, "plain8", {"norm": "none"}),
    "bottlenecks and projections": (COLOUR, "resnet11", {"block": "bottleneck", "shortcut": "project"}),
}


@pytest.mark.parametrize(
    "key", [pytest.param(key, marks=() if key == "grey" else pytest.mark.slow) for key in NETWORKS]
)
def test_every_runtime_computes_the_network(tmp_path, key):
    preprocessing, name, changes = NETWORKS[key]
    path = model_file(tmp_path / "model.safetensors", preprocessing, name, **changes)
    views = smooth_images(preprocessing, 9)
    logits, feature_maps = reference(path, views)
    assert np.ptp(logits, axis=0).min() > 0.02
    for backend, engine in create_engines(path).items():
        assert (engine.backend, engine.precision) == (backend, "fp32")
        for batch in (slice(0, 9), slice(2, 3), slice(3, 7)):
            computed = engine.logits(views[batch])
            assert computed.dtype == np.float32
            np.testing.assert_allclose(computed, logits[batch], rtol=1e-4, atol=1e-4 * np.abs(logits).max())
        atol = 1e-4 * np.abs(feature_maps).max()
        np.testing.assert_allclose(engine.feature_maps(views), feature_maps, rtol=1e-4, atol=atol)
        np.testing.assert_allclose(engine.head_weights, load_model(path)[0].fc.weight.detach().numpy(), rtol=1e-6)


@pytest.mark.parametrize("callers", [1, 3])
def test_threads_share_an_engine(small, callers):
    views = smooth_images(COLOUR, 12)
    for backend, engine in create_engines(small, callers).items():
        singles = [engine.logits(views[index : index + 1]) for index in range(12)]
        pairs = [engine.logits(views[index : index + 2]) for index in range(11)]
        wrong = []

        def work(first: int, engine=engine, singles=singles, pairs=pairs, wrong=wrong) -> None:
            for index in (number % 11 for number in range(first, first + 22)):
                single, pair = engine.logits(views[index : index + 1]), engine.logits(views[index : index + 2])
                if not (np.array_equal(single, singles[index]) and np.array_equal(pair, pairs[index])):
                    wrong.append(index)

        threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong, backend


def test_results_are_not_overwritten_by_the_next_call(small):
    """An engine that returned the runtime's own memory would overwrite it."""
    views = smooth_images(COLOUR, 2)
    for engine in create_engines(small).values():
        logits, feature_maps = engine.logits(views[:1]), engine.feature_maps(views[:1])
        logits_copy, feature_maps_copy = logits.copy(), feature_maps.copy()
        engine.logits(views[1:])
        engine.feature_maps(views[1:])
        assert np.array_equal(logits, logits_copy)
        assert np.array_equal(feature_maps, feature_maps_copy)


def test_the_feature_map_session_is_created_at_its_first_use(small):
    graph = ModelFileEngineFactory(small).read_graph()
    num_reads = 0

    def read_graph() -> bytes:
        nonlocal num_reads
        num_reads += 1
        return graph

    views = smooth_images(COLOUR, 2)
    onnx = OnnxEngine(read_graph, "fp32")
    onnx.logits(views)
    assert num_reads == 1
    assert onnx.feature_maps(views).shape == (2, 64, 8, 8)
    assert onnx.head_weights.shape == (6, 64)
    assert num_reads == 2
    openvino = OpenVinoEngine(lambda: (read_graph(), b""), "fp32")
    openvino.logits(views)
    assert num_reads == 3


def test_bf16_differs_from_fp32_as_expected(small):
    if not has_bf16():
        pytest.skip("this processor has no bfloat16 arithmetic")
    views = smooth_images(COLOUR, 8)
    logits, feature_maps = reference(small, views)
    engine = ModelFileEngineFactory(small).create(Candidate("openvino", "bf16"))
    assert engine.precision == "bf16"
    difference = np.abs(engine.logits(views) - logits).max()
    assert 1e-3 < difference < 0.1 * np.abs(logits).max()
    np.testing.assert_allclose(engine.feature_maps(views), feature_maps, atol=0.1 * np.abs(feature_maps).max())


@pytest.mark.slow
def test_a_quantised_graph_has_feature_maps_and_head_weights(small, tmp_path):
    """Quantised by ONNX Runtime: int8 weights per channel, a pair of nodes before each operator."""
    from onnxruntime import quantization

    (tmp_path / "graph.onnx").write_bytes(ModelFileEngineFactory(small).read_graph())
    views = smooth_images(COLOUR, 32)

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.remaining = [{"images": view[None]} for view in views]

        def get_next(self):  # pyright: ignore[reportIncompatibleMethodOverride]  # `None` ends it
            return self.remaining.pop() if self.remaining else None

    quantization.quantize_static(
        tmp_path / "graph.onnx",
        tmp_path / "int8.onnx",
        Reader(),
        per_channel=True,
        reduce_range=True,  # 7 bits: sums of 8-bit products overflow on processors without VNNI
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "Gemm", "MatMul"],
    )
    graph = (tmp_path / "int8.onnx").read_bytes()
    _, feature_maps = reference(small, views)
    weights = load_model(small)[0].fc.weight.detach().numpy()
    for engine in (OnnxEngine(lambda: graph, "int8"), OpenVinoEngine(lambda: (graph, b""), "int8")):
        assert 0 < np.abs(engine.head_weights - weights).max() < 0.04 * np.abs(weights).max()
        assert 0 < np.abs(engine.feature_maps(views) - feature_maps).mean() < 0.05 * feature_maps.std()


def test_a_missing_runtime_is_reported(small, monkeypatch):
    for backend in ("onnxruntime", "openvino"):
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, backend, None)
            assert not optional_packages.installed(backend)
            with pytest.raises(ConfigError, match=rf"the backend {backend} needs its package .*resnetlab\[export\]"):
                ModelFileEngineFactory(small).create(Candidate(backend))


def test_openvino_is_imported_without_its_telemetry(tmp_path):
    """Its plain import stores an identity and counters in the home folder, and sends them."""
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


def test_a_signal_after_unloading_openvino_does_not_end_the_process():
    """Any thread may unload the plugin, which frees the stack that it registered for signal handlers."""
    code = (
        "import gc, os, signal, threading\n"
        "from resnetlab.inference import optional_packages as packages\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('handled', flush=True))\n"
        "cores = [packages.openvino_core()]\n"
        "packages.openvino_core.cache_clear()\n"
        "thread = threading.Thread(target=cores.clear); thread.start(); thread.join()\n"
        "gc.collect(); os.kill(os.getpid(), signal.SIGTERM); print('alive')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\nalive\n"), done
