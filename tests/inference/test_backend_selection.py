"""Selection of the fastest backend: stubs with wrong results, errors and known times of a simulated clock."""

import threading
import time

import numpy as np
import pytest

from resnetlab.inference import backend_selection as module
from resnetlab.inference.backend_selection import (
    TOLERANCES,
    BackendSelection,
    BatchSizeEngine,
    Candidate,
    engine_name,
    find_difference,
    select_backend,
    time_engines,
)
from resnetlab.inference.engines.base import Backend, Precision
from resnetlab.serialization import ConfigError, from_json, to_json

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), dtype=np.uint8)
WEIGHTS = np.random.default_rng(1).normal(0, 0.02, (48, 10))


class SimulatedClock:
    """In place of the module `time`: only `sleep` lets time pass, so another load of the machine changes nothing."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def perf_counter(self) -> float:
        return self._now_s

    def sleep(self, seconds: float) -> None:
        self._now_s += seconds


class StubEngine:
    """An engine with known logits and times: `ms` for a call, and `ms_per_image` for each image."""

    def __init__(
        self, ms: float = 0.5, ms_per_image: float = 0, change=lambda logits: logits, precision: Precision = "fp32"
    ) -> None:
        self.backend: Backend = "openvino"
        self.precision: Precision = precision
        self.calls: list[int] = []
        self.threads: set[int] = set()
        self._ms, self._ms_per_image, self._change = ms, ms_per_image, change

    def logits(self, images: np.ndarray) -> np.ndarray:
        self.calls.append(len(images))
        self.threads.add(threading.get_ident())
        module.time.sleep((self._ms + self._ms_per_image * len(images)) / 1000)
        return self._change((images.reshape(len(images), -1) @ WEIGHTS).astype(np.float32))

    def feature_maps(self, images: np.ndarray) -> np.ndarray:
        return images

    @property
    def head_weights(self) -> np.ndarray:
        return WEIGHTS


def select(**engines: StubEngine):
    return select_backend({name: (lambda engine=engine: engine) for name, engine in engines.items()}, IMAGES)


@pytest.fixture(autouse=True)
def simulated_clock(monkeypatch):
    monkeypatch.setattr(module, "time", SimulatedClock())


def test_the_fastest_is_selected():
    engines = {"slow": StubEngine(60), "fast": StubEngine(6), "middling": StubEngine(30)}
    selection, engine = select(**engines)
    assert engine is engines["fast"]
    assert selection.fastest == {"1": "fast", "16": "fast"}
    assert {name: ms["1"] for name, ms in selection.ms.items()} == pytest.approx(
        {"slow": 60, "fast": 6, "middling": 30}
    )
    assert selection.ms["fast"]["16"] == pytest.approx(6 / 16)
    assert selection.left_out == {}
    counts = {name: len(stub.calls) for name, stub in engines.items()}
    assert counts["slow"] == counts["middling"] == 5  # two calls to compare, two of size 1, one of 16: too slow


def swapped(logits: np.ndarray) -> np.ndarray:
    return logits[:, ::-1]


def one_image_wrong(logits: np.ndarray) -> np.ndarray:
    wrong = logits.copy()
    wrong[-1] = np.roll(wrong[-1], 1)
    return wrong


def rounded(bits: int):
    """Return a function that rounds to a significand of `bits` bits."""

    def change(logits: np.ndarray) -> np.ndarray:
        fraction, exponent = np.frexp(logits)
        return np.ldexp(np.rint(fraction * 2**bits) / 2**bits, exponent).astype(np.float32)

    return change


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (StubEngine(change=swapped), "points less probable"),
        (StubEngine(change=one_image_wrong), "points less probable"),
        (StubEngine(change=lambda logits: logits * 1.2), "probabilities differ by up to"),
        (StubEngine(change=lambda logits: logits[:, :5]), "not finite numbers of the right shape"),
        (StubEngine(change=lambda logits: logits[:1]), "not finite numbers of the right shape"),
        (StubEngine(change=lambda logits: logits * np.nan), "not finite numbers"),
        (StubEngine(change=np.zeros_like), "points less probable"),
        (StubEngine(change=rounded(8)), "probabilities differ by up to"),  # bf16 declared as fp32
        (StubEngine(change=rounded(1), precision="bf16"), "points"),  # bf16 with a large error
    ],
)
def test_an_engine_with_other_results_is_never_selected(wrong, reason):
    right = StubEngine(3)
    selection, engine = select(right=right, wrong=wrong)
    assert engine is right
    assert set(selection.fastest.values()) == {"right"}
    assert reason in selection.left_out["wrong"]
    assert wrong.calls == [16, 4]  # compared, but not measured


def test_bf16_that_agrees_is_selected():
    half = StubEngine(change=rounded(8), precision="bf16")
    selection, engine = select(right=StubEngine(3), half=half)
    assert engine is half
    assert selection.left_out == {}


def test_wrong_logits_of_nearly_equal_classes_are_detected():
    """The probabilities are nearly equal there, so only the logits reveal the error."""
    rows = np.random.default_rng(2).normal(0, 1e-3, (16, 1000)).astype(np.float32)
    other = np.random.default_rng(3).normal(0, 1e-3, (16, 1000)).astype(np.float32)
    assert find_difference(rows, rows + 1e-7, TOLERANCES["fp32"]) == ""
    assert "its logits differ by" in find_difference(rows, other, TOLERANCES["bf16"])


def test_equally_probable_classes_may_swap_ranks():
    rows = np.zeros((2, 4), np.float32)
    rows[:, :2] = 5
    other = rows.copy()
    other[0, 1] += 1e-5
    assert find_difference(rows, other, TOLERANCES["fp32"]) == ""
    assert find_difference(rows + 7, other, TOLERANCES["fp32"]) == ""  # a constant added to all logits does not matter
    rows[:, 0] += 1
    assert "less probable" in find_difference(rows, other, TOLERANCES["bf16"])


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_single_logit_has_no_class_to_be_compared_with(multi_label):
    rows = np.array([[5], [-5]], np.float32)
    assert find_difference(rows, -rows, TOLERANCES["fp32"], multi_label=multi_label)
    assert find_difference(rows, rows * (1 + 1e-6), TOLERANCES["fp32"], multi_label=multi_label) == ""


def test_several_labels_are_compared_by_their_sigmoids():
    rows = np.random.default_rng(4).normal(0, 3, (8, 5)).astype(np.float32)
    assert find_difference(rows, rows + 1, TOLERANCES["bf16"]) == ""
    assert "its probabilities differ" in find_difference(rows, rows + 1, TOLERANCES["bf16"], multi_label=True)
    scaled = rows - 1000  # every sigmoid is 0, so only the logits differ
    assert "its logits differ" in find_difference(scaled, 2 * scaled, TOLERANCES["bf16"], multi_label=True)
    assert find_difference(rows, rows + 1e-5, TOLERANCES["fp32"], multi_label=True) == ""


def test_a_runtime_with_other_labels_is_left_out():
    right, wrong = StubEngine(3), StubEngine(change=lambda logits: logits + 1)
    engines = {"right": lambda: right, "wrong": lambda: wrong}
    assert select_backend(engines, IMAGES)[1] is wrong
    selection, engine = select_backend(engines, IMAGES, multi_label=True)
    assert engine is right
    assert "its probabilities differ" in selection.left_out["wrong"]


def test_a_failing_engine_is_left_out_with_its_reason():
    def broken():
        raise RuntimeError("no such instruction\nand a traceback")

    selection, engine = select_backend(
        {"broken": broken, "works": StubEngine, "full": lambda: StubEngine(change=raise_memory_error)}, IMAGES
    )
    assert isinstance(engine, StubEngine)
    assert selection.left_out == {"broken": "no such instruction", "full": "out of memory"}
    assert selection.fastest == {"1": "works", "16": "works"}
    assert str(selection) == "works; without broken: no such instruction; without full: out of memory"
    with pytest.raises(RuntimeError, match="no such instruction"):
        select_backend({"broken": broken, "again": broken}, IMAGES)


def raise_memory_error(logits: np.ndarray) -> np.ndarray:
    raise MemoryError("out of memory")


def test_a_broken_network_does_not_affect_the_selection():
    def not_finite(logits: np.ndarray) -> np.ndarray:
        return logits * np.nan

    selection, _ = select(slow=StubEngine(3, change=not_finite), fast=StubEngine(1, change=not_finite))
    assert set(selection.fastest.values()) == {"fast"}


def test_each_batch_size_has_its_own_fastest_engine():
    quick, wide = StubEngine(1, 1), StubEngine(8, 0.1, precision="bf16")
    selection, engine = select(quick=quick, wide=wide)
    assert selection.fastest == {"1": "quick", "16": "wide"}
    assert isinstance(engine, BatchSizeEngine)
    assert engine.precision == "bf16"
    assert engine_name(engine) == "openvino fp32 below 4 images, openvino bf16 from 4"
    assert engine_name(quick) == "openvino fp32"
    for stub in (quick, wide):
        stub.calls.clear()
    for count in (1, 3, 4, 16):
        np.testing.assert_array_equal(engine.logits(IMAGES[:count]), StubEngine().logits(IMAGES[:count]))
    assert (quick.calls, wide.calls) == ([1, 3], [4, 16])
    assert engine.head_weights is WEIGHTS
    assert engine.feature_maps(IMAGES) is IMAGES


def test_an_engine_that_is_nearly_the_fastest_everywhere_is_selected_alone(monkeypatch):
    times = {1: {"a": 1.0, "b": 1.02}, 16: {"a": 1.1, "b": 1.0}}
    monkeypatch.setattr(module, "time_engines", lambda engines, images, *, batch_size, **_: times[batch_size])
    selection, engine = select(a=StubEngine(), b=StubEngine())
    assert selection.fastest == {"1": "b", "16": "b"}
    assert isinstance(engine, StubEngine)
    assert str(selection) == "b; ms an image in batches of 1 and 16: b 1.0, 1.0; a 1.0, 1.1"


def test_the_measurement_uses_the_given_number_of_callers(monkeypatch):
    monkeypatch.setattr(module, "time", time)
    monkeypatch.setattr(module, "MEASURE_S", 0.02)
    first, second = StubEngine(20), StubEngine(20)
    times = time_engines({"a": first, "b": second}, IMAGES, batch_size=2, callers=4)
    assert len(first.threads) == 4
    assert 20 / 2 / 4 <= times["a"] < 8  # sequential calls would take 10


def test_a_loaded_selection_is_validated():
    selection, _ = select(a=StubEngine(1), b=StubEngine(2))
    assert from_json(BackendSelection, to_json(selection)) == selection
    for wrong in (
        {"fastest": {}},
        {"fastest": {"x": "a"}},
        {"fastest": {"1": "a"}, "ms": {"a": 3}},
        {"fastest": {"0": "a"}},
        {"fastest": {"1": "a"}, "ms": {"a": {"1": "x"}}},
        {"fastest": {"1": "a"}, "ms": {"a": {"2": 1}}},
        {"fastest": []},
        {},
        {"fastest": {"1": "a"}, "more": 1},
    ):
        with pytest.raises((ConfigError, TypeError)):
            from_json(BackendSelection, wrong)


def test_candidate_names():
    assert [Candidate("torch").name, Candidate("openvino").name, Candidate("openvino", "bf16").name] == [
        "torch",
        "openvino fp32",
        "openvino bf16",
    ]
