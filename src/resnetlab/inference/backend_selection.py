"""Which runtime is the fastest here, among those that give the same answers: measured, not assumed."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from resnetlab.config import Preprocessing
from resnetlab.inference.engines.base import Backend, Engine, Precision
from resnetlab.inference.probe_images import probe_noise, probe_photographs
from resnetlab.serialization import check

SIZES = (1, 16)
"""Images in a call: one that waits for its answer, and a batch of a server or a folder."""
PHOTOGRAPHS, NOISE = 24, 8
"""Pictures on which answers are compared."""
TURN_S = 0.6
"""Seconds of measuring at each size, at least MIN_TURNS calls of each runtime that may still win."""
MIN_TURNS = 4
HOPELESS = 1.5
"""A runtime that takes so many times the fastest one's first call is not called again."""
AS_FAST = 1.03
"""A runtime that takes no more than so many times the fastest one's time at every size is taken for all of them."""


@dataclass(frozen=True)
class Tolerance:
    """How far answers may be from those of the reference and still be the same."""

    probability: float
    """The largest difference of two probabilities, and of those of classes that may change places at the top."""
    logit: float
    """The root mean square of the differences of logits, over the standard deviation of all logits."""


BOUNDS: dict[Precision, Tolerance] = {
    "fp32": Tolerance(probability=0.001, logit=0.001),
    "bf16": Tolerance(probability=0.1, logit=0.05),
    "int8": Tolerance(probability=0.1, logit=0.05),
}
"""By what a runtime computes in. In fp32 only sums stand in another order. bfloat16 keeps 8 bits of each number: of
4,000 training images of CIFAR-10 the trained ResNet-20 and -56 call each what they did in fp32; logits are 0.8 % off,
probabilities 4.5 points at most. The bound is twice that. An int8 graph is rounded otherwise by each runtime (logits
2.5 to 3.3 % apart, 99.9 % of answers alike): one that is further off than bfloat16 may be does not take the place of
that in which the export was judged."""


@dataclass(frozen=True)
class Candidate:
    """A runtime, and what it is to compute in."""

    backend: Backend
    precision: Precision = "fp32"

    @property
    def name(self) -> str:
        """What people read."""
        return self.backend if self.backend == "torch" else f"{self.backend} {self.precision}"


@dataclass(frozen=True)
class BackendSelection:
    """What was measured, and what follows. Runtimes are called by their candidates' names."""

    fastest: dict[str, str]
    """Of each batch size the runtime to take."""
    ms: dict[str, dict[str, float]] = field(default_factory=dict)
    """Of each runtime whose answers are the same, the milliseconds that an image takes at each batch size."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Each other one, and why."""

    def __post_init__(self) -> None:
        sizes = all(size.isdecimal() and int(size) > 0 for size in self.fastest)
        check(sizes and len(self.fastest) > 0, f"batch sizes are whole numbers above 0, not {list(self.fastest)}")
        times = all(isinstance(times, dict) and set(times) == set(self.fastest) for times in self.ms.values())
        check(times, f"each runtime has a time for each of the batch sizes {', '.join(self.fastest)}, or none has")
        numbers = [ms for times in self.ms.values() for ms in times.values()]
        check(all(isinstance(ms, float | int) and ms >= 0 for ms in numbers), "times are numbers, at least 0")

    def __str__(self) -> str:
        taken = list(dict.fromkeys(self.fastest.values()))
        others = sorted(set(self.ms) - set(taken), key=lambda name: sum(self.ms[name].values()))
        times = [
            f"{name} {', '.join(f'{ms:.1f}' for ms in self.ms[name].values())}"
            for name in taken + others
            if name in self.ms
        ]
        words = " or ".join(taken)
        if times:
            words += f"; ms an image in batches of {' and '.join(self.fastest)}: {'; '.join(times)}"
        return "; ".join([words, *(f"without {name}: {reason}" for name, reason in self.left_out.items())])


class BatchSizeEngine:
    """An `Engine` that leaves small batches to one engine and large ones to another; as exact as the less exact one."""

    def __init__(self, small: Engine, large: Engine, first_large: int) -> None:
        """Take both; `first_large` images, and more, are a large batch."""
        self._small, self._large, self._first_large = small, large, first_large
        self.backend: Backend = small.backend
        self.precision: Precision = large.precision if small.precision == "fp32" else small.precision

    def logits(self, views: np.ndarray) -> np.ndarray:
        """See `Engine.logits`."""
        return (self._small if len(views) < self._first_large else self._large).logits(views)

    def maps(self, views: np.ndarray) -> np.ndarray:
        """See `Engine.maps`."""
        return self._small.maps(views)

    @property
    def head(self) -> np.ndarray:
        """See `Engine.head`."""
        return self._small.head


def probe_images(preprocessing: Preprocessing) -> np.ndarray:
    """Return the pictures on which answers are compared."""
    return np.concatenate([probe_photographs(preprocessing, PHOTOGRAPHS), probe_noise(preprocessing, NOISE)])


def select_backend(
    candidates: Mapping[str, Callable[[], Engine]], views: np.ndarray, *, sizes: Sequence[int] = SIZES, callers: int = 1
) -> tuple[BackendSelection, Engine]:
    """Open all, leave out those that fail or answer otherwise than the first that opens, and measure the others.

    Args:
        candidates: By name, the reference first.
        views: Pictures to compare answers on.
        sizes: Images in a call.
        callers: Threads that call at a time while it is measured.

    Raises:
        Exception: what the first one raised, where not one can be opened.
    """
    engines: dict[str, Engine] = {}
    left_out: dict[str, str] = {}
    wanted, errors = np.empty(0), []
    for name, opened in candidates.items():
        try:
            engine = opened()
            found = np.concatenate(
                [engine.logits(views[at : at + max(sizes)]) for at in range(0, len(views), max(sizes))]
            )
        except Exception as error:  # whatever a runtime raises, the others may do
            errors.append(error)
            left_out[name] = str(error).strip().split("\n")[0][:200] or type(error).__name__
            continue
        wanted = wanted if engines else found
        if reason := find_difference(wanted, found, BOUNDS[engine.precision]):
            left_out[name] = reason
        else:
            engines[name] = engine
    if not engines:
        raise errors[0]
    if len(engines) == 1:
        ((name, engine),) = engines.items()
        return BackendSelection({str(size): name for size in sizes}, {}, left_out), engine
    ms = {size: time_engines(engines, views, size, callers, prepared=size == max(sizes)) for size in sizes}
    fastest = {size: min(times, key=lambda name: times[name]) for size, times in ms.items()}
    for name in engines:
        if all(times[name] <= AS_FAST * min(times.values()) for times in ms.values()):
            fastest = dict.fromkeys(sizes, name)
            break
    by_name = {name: {str(size): round(ms[size][name], 3) for size in sizes} for name in engines}
    choice = BackendSelection({str(size): name for size, name in fastest.items()}, by_name, left_out)
    return choice, selected_engine(choice, engines)


def selected_engine(choice: BackendSelection, engines: Mapping[str, Engine]) -> Engine:
    """Return the engine that a choice speaks of; of two, each gets the sizes nearer to its own."""
    sizes = sorted(choice.fastest, key=int)
    small, large = (engines[choice.fastest[size]] for size in (sizes[0], sizes[-1]))
    return small if small is large else BatchSizeEngine(small, large, round((int(sizes[0]) * int(sizes[-1])) ** 0.5))


def find_difference(wanted: np.ndarray, found: np.ndarray, bound: Tolerance) -> str:
    """Say in what the logits found differ from those wanted, both (num_images, num_classes), by more than a bound.

    Empty where they do not.
    """
    if not np.isfinite(wanted).all():  # a broken network is the same everywhere; predictions will say so
        return ""
    if wanted.shape != found.shape or not np.isfinite(found).all():
        return "its answers are not finite numbers of the right shape"
    wanted, found = (
        rows.astype(np.float64) - rows.mean(1, keepdims=True, dtype=np.float64) for rows in (wanted, found)
    )
    far = float(np.sqrt(np.square(wanted - found).mean()) / (wanted.std() or 1.0))
    likely, said = _softmax(wanted), _softmax(found)
    apart = float(np.abs(likely - said).max())
    rows = np.arange(len(likely))
    missed = float((likely.max(1) - likely[rows, said.argmax(1)]).max())
    if missed > bound.probability:
        return f"it takes a class for the first that is {100 * missed:.2g} points less probable"
    if apart > bound.probability:
        return f"its probabilities are up to {100 * apart:.2g} points off"
    if far > bound.logit:
        return f"its logits are {far:.2g} standard deviations off"
    return ""


def time_engines(
    engines: Mapping[str, Engine], views: np.ndarray, size: int, callers: int, *, prepared: bool = False
) -> dict[str, float]:
    """Return the milliseconds that an image takes in batches of a size: medians of calls turn about.

    The first call of a size takes longer, and is not counted unless the engines are `prepared` by one before.
    """
    batch = np.ascontiguousarray(np.resize(views, (size, *views.shape[1:])))
    times: dict[str, list[float]] = {name: [] for name in engines}
    with ThreadPoolExecutor(callers) as pool:

        def call(name: str) -> float:
            begin = time.perf_counter()
            if callers == 1:  # handing it to a thread would be measured too
                engines[name].logits(batch)
            else:
                list(pool.map(lambda _: engines[name].logits(batch), range(callers)))
            return time.perf_counter() - begin

        for name in engines:
            if not prepared:
                call(name)
            times[name].append(call(name))
        best = min(first for (first,) in times.values())
        racing = [name for name, (first,) in times.items() if first <= HOPELESS * best]
        end = time.perf_counter() + TURN_S
        turn = 1
        while len(racing) > 1 and (turn < MIN_TURNS or time.perf_counter() < end):
            for at in range(len(racing)):
                name = racing[(at + turn) % len(racing)]
                times[name].append(call(name))
            turn += 1
    return {name: 1000 * statistics.median(some) / size / callers for name, some in times.items()}


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
