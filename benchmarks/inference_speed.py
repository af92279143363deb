"""Time inference from pixels to logits: resnetlab against each runtime alone, and int8 against fp32.

Trained ResNet-18 and ResNet-50 (`trained_networks.py`), 224 x 224, batch 1 and 16. All sides run in one process on all
cores and take turns; results are medians. The sides are PyTorch eager and compiled, ONNX Runtime and OpenVINO as
`raw_runtimes.py` writes them, and `resnetlab.load(FILE, backend=...).engine.logits` with `auto`, the fastest fp32
backend, and the int8 export with `auto`. All take uint8 pixels and normalise them. The table gives the share of
photographs with the same class as PyTorch eager. The best other runtime is the fastest one with at least 99.5 %.

    python benchmarks/inference_speed.py --networks networks --data IMAGENETTE64

Missing files in --networks are created first: the networks in half an hour, int8 in a few minutes. The rest takes about
eight minutes, half of it torch.compile. The exit status is 1 if `auto` takes more than 1.03 times the best, agrees on
less than 99.5 %, or int8 is less than 2.0 times as fast as fp32. Ratios are unreliable on a busy machine.
"""

import argparse
import json
import platform
import shutil
import statistics
import sys
import tempfile
import textwrap
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmark_data import add_data_argument
from raw_runtimes import Answers, has_compiler, raw_sides
from resnetlab.config import ConfigError, DataConfig
from resnetlab.data.dataset import Split
from resnetlab.data.eval_dataset import open_eval_dataset
from resnetlab.data.loader import eval_batches_with_positions
from resnetlab.data.sampler import sample_order
from resnetlab.export.export import export
from resnetlab.export.quantize import quantize
from resnetlab.inference.optional_packages import versions
from resnetlab.inference.predictor import load
from resnetlab.models.model_file import load_model
from resnetlab.system.cores import usable_cores
from trained_networks import NAMES, network

BATCHES = (1, 16)
COLUMNS = 80
CALLS = {1: 10, 16: 2}
"""Timed calls of a side in a turn, after one warm-up call."""
REST_S = 0.02
"""Pause between two sides: threads of the previous one may still spin."""
LOSS_PCT = 5.0
"""Points of error that int8 may lose here, so that it is timed in any case; the loss is printed."""
OURS, FP32, INT8 = "ours", "ours, fp32", "ours, int8"
SLOWER, FASTER, AGREEMENT_PCT = 1.03, 2.0, 99.5
"""Largest time ratio of ours to the best other; smallest of fp32 to int8; smallest agreement with eager in %."""


@dataclass
class Found:
    """Measurements of one network."""

    num_images: int
    backends: dict[str, str]
    """Backend of each of our sides."""
    agreement_pct: dict[str, float]
    """Share of photographs with the same class as eager, for each side."""
    ms: dict[int, dict[str, list[float]]] = field(default_factory=dict)
    """Time per call by batch size, side and turn."""

    def median(self, batch: int, side: str) -> float:
        """Return the median time of a call in ms."""
        return statistics.median(self.ms[batch][side])

    def best(self, batch: int) -> str:
        """Return the fastest other side with the same predictions."""
        others = [side for side in self.ms[batch] if "ours" not in side and self.agreement_pct[side] >= AGREEMENT_PCT]
        return min(others, key=partial(self.median, batch))

    def fp32(self, batch: int) -> str:
        """Return our fastest fp32 side."""
        return min((side for side in self.ms[batch] if side.startswith(FP32)), key=partial(self.median, batch))

    def ratio(self, batch: int, over: str, under: str) -> float:
        """Return the time ratio of two sides: the median over turns."""
        pairs = zip(self.ms[batch][over], self.ms[batch][under], strict=True)
        return statistics.median(one / other for one, other in pairs)

    def misses(self) -> list[str]:
        """Return a line for each missed bound."""
        found = []
        for batch in self.ms:
            slower = self.ratio(batch, OURS, self.best(batch))
            faster = self.ratio(batch, self.fp32(batch), INT8)
            found += [f"batch {batch}: ours takes {slower:.2f} times the best"] if slower > SLOWER else []
            found += [f"batch {batch}: int8 is {faster:.2f} times as fast"] if faster < FASTER else []
        low = self.agreement_pct[OURS]
        return found + ([f"ours has the same class in {low:.2f} %"] if low < AGREEMENT_PCT else [])


def main() -> int:
    """Measure each network; return 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description="time ours against each runtime, and int8 against fp32")
    parser.add_argument("names", nargs="*", default=list(NAMES), help="networks to measure")
    parser.add_argument("--networks", type=Path, default=Path("networks"), help="folder of the model files")
    add_data_argument(parser, "--data", "imagenette64", "Imagenette at 64 pixels, parquet files")
    parser.add_argument("--images", type=int, default=800, help="validation photographs for the comparison")
    parser.add_argument("--turns", type=int, default=9, help="number of turns of each side")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    out = sys.stderr if options.json else sys.stdout
    machine = f"{processor()}, {usable_cores()} cores; {', '.join(f'{a} {b}' for a, b in versions().items())}"
    print(textwrap.fill(machine, COLUMNS), file=out)
    if not has_compiler():
        print("no C++ compiler here: nothing is compiled", file=out)
    results, missed = {}, []
    for name in options.names:
        file = network(name, options.data, options.networks)
        int8 = in_int8(file, options.data)
        with tempfile.TemporaryDirectory() as folder:
            found = measure(file, int8, options, Path(folder))
        results[name] = asdict(found)
        missed += [f"{name}, {one}" for one in found.misses()]
        if not options.json:
            show(name, found)
    if options.json:
        print(json.dumps({"machine": processor(), "versions": versions(), "networks": results, "missed": missed}))
    print("missed: " + "; ".join(missed) if missed else "all bounds are kept", file=out)
    return int(bool(missed))


def in_int8(file: Path, data: Path) -> Path:
    """Return the int8 export of a network; create it if it is missing."""
    made = file.with_name(f"{file.stem}-int8.onnx")
    if not made.exists():
        quantizer = partial(_quantize, data=DataConfig(str(data)))
        print(f"{made}: {export(file, made, 'onnx', quantizer=quantizer).metadata.int8}", file=sys.stderr, flush=True)
    return made


def _quantize(graph, card, model, data: DataConfig):  # noqa: ANN202
    return quantize(graph, card, data, allowed_loss_pct=LOSS_PCT, model=model)


def measure(file: Path, int8: Path, options: argparse.Namespace, folder: Path) -> Found:
    """Open all sides, compare their predictions, and time them."""
    views = photographs(file, options.data, options.images)
    model, card = load_model(file)
    sides = raw_sides(model, card.preprocessing, folder)
    mine, backends = our_sides(file, int8, folder)
    sides |= mine
    for batch in BATCHES:
        for answers in sides.values():
            answers(views[:batch])  # compile and warm up
    predicted = {side: predicted_classes(answers, views) for side, answers in sides.items()}
    agreement = {side: 100 * float((predicted["eager"] == classes).mean()) for side, classes in predicted.items()}
    found = Found(len(views), backends, agreement)
    for batch in BATCHES:
        found.ms[batch] = times(sides, views[:batch], options.turns)
    return found


def photographs(file: Path, data: Path, count: int) -> np.ndarray:
    """Return preprocessed validation photographs: uint8 (count, height, width, channels)."""
    _, card = load_model(file)
    val = open_eval_dataset(DataConfig(str(data), resident_mib=0), card.preprocessing, "val").split
    assert not isinstance(val.images, torch.Tensor)
    selected = sample_order(0, 0, len(val))[:count]
    few = Split(val.images.subset(selected), val.labels[selected])
    batches = [
        pixels.permute(0, 2, 3, 1).numpy()
        for _, pixels, _ in eval_batches_with_positions(few, None, workers=usable_cores())
    ]
    return np.ascontiguousarray(np.concatenate(batches))


def our_sides(file: Path, int8: Path, folder: Path) -> tuple[dict[str, Answers], dict[str, str]]:
    """Return our sides and their backends, selected anew on copies that have no stored selection."""
    file, int8 = (Path(shutil.copy(one, folder)) for one in (file, int8))
    sides: dict[str, Answers] = {}
    backends: dict[str, str] = {}
    for side, path in ((OURS, file), (INT8, int8)):
        messages: list[str] = []
        sides[side] = load(path, backend="auto", log=messages.append).engine.logits
        backends[side] = messages[0] if messages else "the only backend"
    for backend in ("onnxruntime", "openvino"):
        try:
            sides[f"{FP32} {backend}"] = load(file, backend=backend).engine.logits
        except ConfigError as error:
            print(f"without {backend}: {error}", file=sys.stderr)
    return sides, backends


def predicted_classes(answers: Answers, views: np.ndarray) -> np.ndarray:
    """Return the most probable class of each image; the last batch is padded, so that nothing is compiled again."""
    size = BATCHES[-1]
    filled = np.resize(views, (-(-len(views) // size) * size, *views.shape[1:]))
    rows = [answers(filled[at : at + size]).argmax(1) for at in range(0, len(filled), size)]
    return np.concatenate(rows)[: len(views)]


def times(sides: dict[str, Answers], views: np.ndarray, turns: int) -> dict[str, list[float]]:
    """Return the time of a call of each side in ms, turn by turn; the side that begins rotates."""
    found: dict[str, list[float]] = {side: [] for side in sides}
    order = list(sides)
    for turn in range(turns):
        at = turn % len(order)
        for side in order[at:] + order[:at]:
            time.sleep(REST_S)
            sides[side](views)
            calls = CALLS[len(views)]
            start = time.perf_counter()
            for _ in range(calls):
                sides[side](views)
            found[side].append(1000 * (time.perf_counter() - start) / calls)
    return found


def show(name: str, found: Found) -> None:
    """Print a table for each batch size, 80 columns wide, and the ratios."""
    for side, words in found.backends.items():
        print("\n" + textwrap.fill(f"{name}, {side} selects {words}", COLUMNS))
    for batch in found.ms:
        print(f"\n{name}, batch {batch:<18} ms a call   images/s   same class of {found.num_images:,}")
        for side in found.ms[batch]:
            ms = found.median(batch, side)
            print(f"  {side:<28} {ms:9.1f} {1000 * batch / ms:10.1f}   {found.agreement_pct[side]:6.2f} %")
        best, fp32 = found.best(batch), found.fp32(batch)
        print(
            f"  ours / {best}: {found.ratio(batch, OURS, best):.2f} (at most {SLOWER}); "
            f"fp32 / int8: {found.ratio(batch, fp32, INT8):.2f} (at least {FASTER})",
            flush=True,
        )


def processor() -> str:
    """Return the processor's name and its relevant instruction sets."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    lines = {key.strip(): value.strip() for key, value in lines.items()}
    flags = set(lines.get("flags", "").split()) & {
        "avx2",
        "avx512f",
        "avx512_vnni",
        "avx512_bf16",
        "avx_vnni",
        "amx_int8",
    }
    return " ".join([lines.get("model name", platform.processor() or platform.machine()), *sorted(flags)])


if __name__ == "__main__":
    sys.exit(main())
