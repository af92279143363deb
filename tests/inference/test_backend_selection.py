"""The fastest of those that answer the same: doubles that lie, fail or are slow, and times that decide."""

import threading
import time

import numpy as np
import pytest

from helpers.engine_networks import COLOUR
from resnetlab.inference import backend_selection as module
from resnetlab.inference.backend_selection import (
    BOUNDS,
    BackendSelection,
    BatchSizeEngine,
    Candidate,
    find_difference,
    probe_images,
    select_backend,
    time_engines,
)
from resnetlab.inference.engines.base import Backend, Precision
from resnetlab.serialization import ConfigError, from_json, to_json

VIEWS = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), dtype=np.uint8)
WEIGHTS = np.random.default_rng(1).normal(0, 0.02, (48, 10))


class Double:
    """An engine whose answers and times are known: `ms` for a call and `each` for an image."""

    def __init__(
        self, ms: float = 0, each: float = 0, change=lambda logits: logits, precision: Precision = "fp32"
    ) -> None:
        self.backend: Backend = "openvino"
        self.precision: Precision = precision
        self.calls: list[int] = []
        self.threads: set[int] = set()
        self._ms, self._each, self._change = ms, each, change

    def logits(self, views: np.ndarray) -> np.ndarray:
        self.calls.append(len(views))
        self.threads.add(threading.get_ident())
        time.sleep((self._ms + self._each * len(views)) / 1000)
        return self._change((views.reshape(len(views), -1) @ WEIGHTS).astype(np.float32))

    def maps(self, views: np.ndarray) -> np.ndarray:
        return views

    @property
    def head(self) -> np.ndarray:
        return WEIGHTS


def chosen_of(**doubles: Double):
    return select_backend({name: (lambda double=double: double) for name, double in doubles.items()}, VIEWS)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(module, "TURN_S", 0.02)


def test_the_fastest_is_taken():
    right = {"slow": Double(8), "fast": Double(1), "middling": Double(4)}
    choice, engine = chosen_of(**right)
    assert engine is right["fast"]
    assert choice.fastest == {"1": "fast", "16": "fast"}
    assert 1 <= choice.ms["fast"]["1"] < choice.ms["middling"]["1"] < choice.ms["slow"]["1"]
    assert choice.ms["fast"]["16"] == pytest.approx(choice.ms["fast"]["1"] / 16, rel=0.8)
    assert choice.left_out == {}
    counts = {name: len(double.calls) for name, double in right.items()}
    assert counts["slow"] == counts["middling"] == 5  # two calls to compare, two of size 1, one of 16: no hope


def swapped(logits: np.ndarray) -> np.ndarray:
    return logits[:, ::-1]


def one_image_wrong(logits: np.ndarray) -> np.ndarray:
    wrong = logits.copy()
    wrong[-1] = np.roll(wrong[-1], 1)
    return wrong


def rounded(bits: int):
    """As a number with so few bits is."""

    def change(logits: np.ndarray) -> np.ndarray:
        fraction, exponent = np.frexp(logits)
        return np.ldexp(np.rint(fraction * 2**bits) / 2**bits, exponent).astype(np.float32)

    return change


@pytest.mark.parametrize(
    ("liar", "reason"),
    [
        (Double(change=swapped), "points less probable"),
        (Double(change=one_image_wrong), "points less probable"),
        (Double(change=lambda logits: logits * 1.2), "probabilities are up to"),
        (Double(change=lambda logits: logits[:, :5]), "not finite numbers of the right shape"),
        (Double(change=lambda logits: logits[:1]), "not finite numbers of the right shape"),
        (Double(change=lambda logits: logits * np.nan), "not finite numbers"),
        (Double(change=np.zeros_like), "points less probable"),
        (Double(change=rounded(8)), "points off"),  # bf16 that calls itself fp32
        (Double(change=rounded(1), precision="bf16"), "points"),  # bf16 that disagrees
    ],
)
def test_one_that_answers_otherwise_is_never_taken_however_fast(liar, reason):
    honest = Double(3)
    choice, engine = chosen_of(honest=honest, liar=liar)
    assert engine is honest
    assert set(choice.fastest.values()) == {"honest"}
    assert reason in choice.left_out["liar"]
    assert liar.calls == [16, 4]  # it was not even measured


def test_bf16_that_agrees_is_taken():
    half = Double(change=rounded(8), precision="bf16")
    choice, engine = chosen_of(honest=Double(3), half=half)
    assert engine is half
    assert choice.left_out == {}


def test_on_a_network_that_hardly_tells_classes_apart_a_liar_is_found_too():
    """Probabilities are all alike there, and hide what logits show."""
    rows = np.random.default_rng(2).normal(0, 1e-3, (16, 1000)).astype(np.float32)
    other = np.random.default_rng(3).normal(0, 1e-3, (16, 1000)).astype(np.float32)
    assert find_difference(rows, rows + 1e-7, BOUNDS["fp32"]) == ""
    assert "standard deviations off" in find_difference(rows, other, BOUNDS["bf16"])


def test_classes_that_are_equally_probable_may_change_places():
    rows = np.zeros((2, 4), np.float32)
    rows[:, :2] = 5
    other = rows.copy()
    other[0, 1] += 1e-5
    assert find_difference(rows, other, BOUNDS["fp32"]) == ""
    assert find_difference(rows + 7, other, BOUNDS["fp32"]) == ""  # a constant for all classes says nothing
    rows[:, 0] += 1
    assert "less probable" in find_difference(rows, other, BOUNDS["bf16"])


def test_one_that_fails_is_left_out_and_said():
    def broken():
        raise RuntimeError("no such instruction\nand a page of where")

    choice, engine = select_backend(
        {"broken": broken, "works": Double, "mute": lambda: Double(change=broken_call)}, VIEWS
    )
    assert isinstance(engine, Double)
    assert choice.left_out == {"broken": "no such instruction", "mute": "out of memory"}
    assert choice.fastest == {"1": "works", "16": "works"}
    assert str(choice) == "works; without broken: no such instruction; without mute: out of memory"
    with pytest.raises(RuntimeError, match="no such instruction"):
        select_backend({"broken": broken, "again": broken}, VIEWS)


def broken_call(logits: np.ndarray) -> np.ndarray:
    raise MemoryError("out of memory")


def test_a_broken_network_is_the_same_everywhere():
    def nowhere(logits: np.ndarray) -> np.ndarray:
        return logits * np.nan

    choice, _ = chosen_of(one=Double(3, change=nowhere), other=Double(1, change=nowhere))
    assert set(choice.fastest.values()) == {"other"}


def test_each_size_has_its_own_fastest():
    quick, wide = Double(1, 1), Double(8, 0.1, precision="bf16")
    choice, engine = chosen_of(quick=quick, wide=wide)
    assert choice.fastest == {"1": "quick", "16": "wide"}
    assert isinstance(engine, BatchSizeEngine)
    assert engine.precision == "bf16"
    for double in (quick, wide):
        double.calls.clear()
    for count in (1, 3, 4, 16):
        np.testing.assert_array_equal(engine.logits(VIEWS[:count]), Double().logits(VIEWS[:count]))
    assert (quick.calls, wide.calls) == ([1, 3], [4, 16])
    assert engine.head is WEIGHTS
    assert engine.maps(VIEWS) is VIEWS


def test_one_that_is_nearly_as_fast_everywhere_is_taken_alone(monkeypatch):
    times = {1: {"a": 1.0, "b": 1.02}, 16: {"a": 1.1, "b": 1.0}}
    monkeypatch.setattr(module, "time_engines", lambda engines, views, size, callers, **_: times[size])
    choice, engine = chosen_of(a=Double(), b=Double())
    assert choice.fastest == {"1": "b", "16": "b"}
    assert isinstance(engine, Double)
    assert str(choice) == "b; ms an image in batches of 1 and 16: b 1.0, 1.0; a 1.0, 1.1"


def test_it_is_measured_with_as_many_callers_as_there_will_be():
    double, other = Double(20), Double(20)
    found = time_engines({"a": double, "b": other}, VIEWS, 2, 4)
    assert len(double.threads) == 4
    assert 20 / 2 / 4 <= found["a"] < 8  # one after the other they would take 10


def test_what_is_read_of_a_choice_is_checked():
    choice, _ = chosen_of(a=Double(1), b=Double(2))
    assert from_json(BackendSelection, to_json(choice)) == choice
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


def test_the_pictures_are_photographs_and_noise_as_the_network_sees_them():
    views = probe_images(COLOUR)
    assert views.shape == (32, 32, 32, 3)
    assert views.dtype == np.uint8
    rough = np.abs(np.diff(views.astype(int), axis=2)).mean((1, 2, 3))
    assert rough[:24].max() < rough[24:].min()


def test_names():
    assert [Candidate("torch").name, Candidate("openvino").name, Candidate("openvino", "bf16").name] == [
        "torch",
        "openvino fp32",
        "openvino bf16",
    ]
