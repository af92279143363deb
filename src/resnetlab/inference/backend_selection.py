"""Selection of the fastest runtime on this machine, by measurement, among those whose predictions agree."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from resnetlab.inference.engines.base import Backend, Engine, Precision
from resnetlab.serialization import check

BATCH_SIZES = (1, 16)
"""Measured batch sizes: a single image whose result is awaited, and a batch of a server or a folder."""
MEASURE_S = 0.6
"""Seconds of measurement at each batch size, with at least MIN_ROUNDS calls of each runtime that can still win."""
MIN_ROUNDS = 4
MAX_SLOWDOWN = 1.5
"""A runtime whose first call takes this many times the fastest one's is not measured further."""
TIE_RATIO = 1.03
"""A runtime within this ratio of the fastest time at every batch size is selected for all of them."""


@dataclass(frozen=True)
class Tolerance:
    """The largest allowed differences from the reference runtime."""

    probability: float
    """Largest difference of two probabilities. Also the largest gap between two classes that swap the first rank."""
    logit: float
    """Root mean square of the logit differences over that of all logits, each image's mean removed for a softmax of
    several classes."""


TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(probability=0.001, logit=0.001),
    "bf16": Tolerance(probability=0.1, logit=0.05),
    "int8": Tolerance(probability=0.1, logit=0.05),
}
"""Tolerances by the runtime's precision. In fp32 only the order of sums differs. bfloat16 has an 8-bit significand: on
4,000 training images of CIFAR-10, the trained ResNet-20 and -56 predict the same classes as in fp32; logits differ by
0.8 %, probabilities by at most 4.5 points. The tolerance is twice that. Each runtime rounds an int8 graph differently
(logits differ by 2.5 to 3.3 %, 99.9 % of predictions agree). A runtime whose int8 results differ by more than the
bfloat16 tolerance does not replace the runtime in which the export was verified."""


@dataclass(frozen=True)
class Candidate:
    """A runtime and the precision in which it computes."""

    backend: Backend
    precision: Precision = "fp32"

    @property
    def name(self) -> str:
        """The name in messages and in stored selections."""
        return self.backend if self.backend == "torch" else f"{self.backend} {self.precision}"


@dataclass(frozen=True)
class BackendSelection:
    """The measured times and the selected runtimes, by the names of the candidates."""

    fastest: dict[str, str]
    """The selected runtime for each batch size."""
    ms: dict[str, dict[str, float]] = field(default_factory=dict)
    """Milliseconds an image at each batch size, for each runtime whose predictions agree."""
    left_out: dict[str, str] = field(default_factory=dict)
    """The reason for each excluded runtime."""

    def __post_init__(self) -> None:
        sizes = all(size.isdecimal() and int(size) > 0 for size in self.fastest)
        check(sizes and len(self.fastest) > 0, f"batch sizes must be whole numbers above 0, not {list(self.fastest)}")
        times = all(isinstance(times, dict) and set(times) == set(self.fastest) for times in self.ms.values())
        check(times, f"each runtime must have a time for each of the batch sizes {', '.join(self.fastest)}")
        numbers = [ms for times in self.ms.values() for ms in times.values()]
        check(all(isinstance(ms, float | int) and ms >= 0 for ms in numbers), "times must be numbers, at least 0")

    def __str__(self) -> str:
        selected = list(dict.fromkeys(self.fastest.values()))
        others = sorted(set(self.ms) - set(selected), key=lambda name: sum(self.ms[name].values()))
        times = [
            f"{name} {', '.join(f'{ms:.1f}' for ms in self.ms[name].values())}"
            for name in selected + others
            if name in self.ms
        ]
        summary = " or ".join(selected)
        if times:
            summary += f"; ms an image in batches of {' and '.join(self.fastest)}: {'; '.join(times)}"
        return "; ".join([summary, *(f"without {name}: {reason}" for name, reason in self.left_out.items())])


class BatchSizeEngine:
    """An `Engine` that uses one engine for small batches and another for large ones.

    Its precision is the lower of the two.
    """

    def __init__(self, small: Engine, large: Engine, first_large: int) -> None:
        """Use `large` for batches of at least `first_large` images."""
        self._small, self._large, self._first_large = small, large, first_large
        self.backend: Backend = small.backend
        self.precision: Precision = large.precision if small.precision == "fp32" else small.precision

    @property
    def name(self) -> str:
        """Each engine with its precision: the backend of one and the precision of the other do not belong together."""
        first, small, large = self._first_large, engine_name(self._small), engine_name(self._large)
        return f"{small} below {first} images, {large} from {first}"

    def logits(self, images: np.ndarray) -> np.ndarray:
        """See `Engine.logits`."""
        return (self._small if len(images) < self._first_large else self._large).logits(images)

    def feature_maps(self, images: np.ndarray) -> np.ndarray:
        """See `Engine.feature_maps`."""
        return self._small.feature_maps(images)

    @property
    def head_weights(self) -> np.ndarray:
        """See `Engine.head_weights`."""
        return self._small.head_weights


def engine_name(engine: Engine) -> str:
    """Return runtime and precision of an engine for messages, of both if it uses another one for large batches."""
    return engine.name if isinstance(engine, BatchSizeEngine) else f"{engine.backend} {engine.precision}"


def select_backend(
    candidates: Mapping[str, Callable[[], Engine]],
    images: np.ndarray,
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    callers: int = 1,
    multi_label: bool = False,
) -> tuple[BackendSelection, Engine]:
    """Create the engines, exclude those that fail or disagree with the reference, and measure the others.

    Args:
        candidates: Functions that create the engines, by name. The first one that works is the reference.
        images: uint8 (batch, height, width, channels) for comparison and measurement.
        batch_sizes: Batch sizes to measure.
        callers: Threads that call at the same time during the measurement.
        multi_label: As for `find_difference`.

    Returns:
        The selection, and the selected engine.

    Raises:
        Exception: No candidate works; the exception is that of the first.
    """
    engines, left_out = _agreeing_engines(candidates, images, max(batch_sizes), multi_label)
    if len(engines) == 1:
        ((name, engine),) = engines.items()
        return BackendSelection({str(size): name for size in batch_sizes}, {}, left_out), engine
    ms = {
        size: time_engines(engines, images, batch_size=size, callers=callers, warmed_up=size == max(batch_sizes))
        for size in batch_sizes
    }
    fastest = {size: min(times, key=lambda name: times[name]) for size, times in ms.items()}
    for name in engines:
        if all(times[name] <= TIE_RATIO * min(times.values()) for times in ms.values()):
            fastest = dict.fromkeys(batch_sizes, name)
            break
    ms_by_name = {name: {str(size): round(ms[size][name], 3) for size in batch_sizes} for name in engines}
    selection = BackendSelection({str(size): name for size, name in fastest.items()}, ms_by_name, left_out)
    return selection, selected_engine(selection, engines)


def _agreeing_engines(
    candidates: Mapping[str, Callable[[], Engine]], images: np.ndarray, batch_size: int, multi_label: bool
) -> tuple[dict[str, Engine], dict[str, str]]:
    """Return the engines that work and agree with the first, and the reason for each other one."""
    engines: dict[str, Engine] = {}
    left_out: dict[str, str] = {}
    reference, errors = np.empty(0), []
    for name, create in candidates.items():
        try:
            engine = create()
            starts = range(0, len(images), batch_size)
            logits = np.concatenate([engine.logits(images[start : start + batch_size]) for start in starts])
        except Exception as error:  # a failure of one runtime does not affect the others
            errors.append(error)
            left_out[name] = str(error).strip().split("\n")[0][:200] or type(error).__name__
            continue
        reference = reference if engines else logits
        if reason := find_difference(reference, logits, TOLERANCES[engine.precision], multi_label=multi_label):
            left_out[name] = reason
        else:
            engines[name] = engine
    if not engines:
        raise errors[0]
    return engines, left_out


def selected_engine(selection: BackendSelection, engines: Mapping[str, Engine]) -> Engine:
    """Return the selected engine. Of two, each computes the batch sizes that are nearer to its own."""
    sizes = sorted(selection.fastest, key=int)
    small, large = (engines[selection.fastest[size]] for size in (sizes[0], sizes[-1]))
    return small if small is large else BatchSizeEngine(small, large, round((int(sizes[0]) * int(sizes[-1])) ** 0.5))


def find_difference(
    expected: np.ndarray, logits: np.ndarray, tolerance: Tolerance, *, multi_label: bool = False
) -> str:
    """Compare logits, both (num_images, num_classes), and describe a difference beyond the tolerance.

    A constant added to all logits of an image does not change a softmax, so it is no difference. It is one to sigmoids
    and to a single logit.

    Args:
        expected: Logits of the reference.
        logits: Logits to compare.
        tolerance: The largest allowed differences.
        multi_label: The probabilities are the sigmoids of the logits, not their softmax.

    Returns:
        The description; empty if the logits agree.
    """
    if not np.isfinite(expected).all():  # a broken network fails on every runtime; the predictor reports it
        return ""
    if expected.shape != logits.shape or not np.isfinite(logits).all():
        return "its logits are not finite numbers of the right shape"
    expected, logits = expected.astype(np.float64), logits.astype(np.float64)
    if expected.shape[1] > 1 and not multi_label:
        expected, logits = (rows - rows.mean(1, keepdims=True) for rows in (expected, logits))
    logit_difference = _root_mean_square(expected - logits) / (_root_mean_square(expected) or 1.0)
    to_probabilities = _sigmoid if multi_label else _softmax
    expected_probabilities, probabilities = to_probabilities(expected), to_probabilities(logits)
    difference = float(np.abs(expected_probabilities - probabilities).max())
    rows = np.arange(len(probabilities))
    top1_gap = expected_probabilities.max(1) - expected_probabilities[rows, probabilities.argmax(1)]
    if float(top1_gap.max()) > tolerance.probability:
        return f"its most probable class is {100 * float(top1_gap.max()):.2g} points less probable"
    if difference > tolerance.probability:
        return f"its probabilities differ by up to {100 * difference:.2g} points"
    if logit_difference > tolerance.logit:
        return f"its logits differ by {100 * logit_difference:.2g} %"
    return ""


def time_engines(
    engines: Mapping[str, Engine],
    images: np.ndarray,
    *,
    batch_size: int,
    callers: int = 1,
    warmed_up: bool = False,
) -> dict[str, float]:
    """Return the median milliseconds an image, by engine. The engines take turns.

    Args:
        engines: Engines by name.
        images: uint8 (num_images, height, width, channels); repeated or cut to the batch size.
        batch_size: Images in a call.
        callers: Threads that call at the same time.
        warmed_up: The engines have computed this batch size before. Otherwise a first, slower call is not counted.
    """
    batch = np.ascontiguousarray(np.resize(images, (batch_size, *images.shape[1:])))
    times: dict[str, list[float]] = {name: [] for name in engines}
    with ThreadPoolExecutor(callers) as pool:

        def call(name: str) -> float:
            start = time.perf_counter()
            if callers == 1:  # without the pool, whose overhead would count
                engines[name].logits(batch)
            else:
                list(pool.map(lambda _: engines[name].logits(batch), range(callers)))
            return time.perf_counter() - start

        for name in engines:
            if not warmed_up:
                call(name)
            times[name].append(call(name))
        best = min(first for (first,) in times.values())
        remaining = [name for name, (first,) in times.items() if first <= MAX_SLOWDOWN * best]
        deadline = time.perf_counter() + MEASURE_S
        rounds = 1
        while len(remaining) > 1 and (rounds < MIN_ROUNDS or time.perf_counter() < deadline):
            for index in range(len(remaining)):
                name = remaining[(index + rounds) % len(remaining)]
                times[name].append(call(name))
            rounds += 1
    return {name: 1000 * statistics.median(calls) / batch_size / callers for name, calls in times.items()}


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(values).mean()))


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * logits))  # without overflow


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
