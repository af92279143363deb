"""How fast pixels become logits: ours against each runtime by itself, and int8 against fp32, on the same answers.

ResNet-18 and ResNet-50 that were trained (`trained_networks.py`), 224 x 224, batch 1 and 16. Sides, turn about in one
process on all cores, medians: PyTorch eager and compiled, ONNX Runtime, OpenVINO, as `raw_runtimes.py` writes them; and
ours, `resnetlab.load(FILE, backend=...).engine.logits`: `auto`, the fastest in fp32, and the int8 export by `auto`. All
take uint8 pixels and normalise them themselves. The share of photographs that get the same class as in eager PyTorch
stands beside each; the other runtimes' best is the best of those with at least 99.5 %.

    python benchmarks/inference_speed.py --networks networks

What is missing in --networks is made first, the networks in half an hour, int8 in a few minutes; the rest takes about
eight minutes, half of it torch.compile. Exits with 1 where ours takes more than 1.03 times the best, agrees in less
than 99.5 %, or int8 is less than 2.0 times as fast as our fp32. On a busy machine ratios mean little.
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
from trained_networks import DATA, NAMES, network

BATCHES = (1, 16)
COLUMNS = 80
CALLS = {1: 10, 16: 2}
"""Calls of a side in a turn, after one that is not counted."""
REST_S = 0.02
"""Between two sides: threads of the one before may still spin."""
LOSS_PCT = 5.0
"""Points of error that int8 may lose here: it is timed whatever it loses, and the loss is printed."""
OURS, FP32, INT8 = "ours", "ours, fp32", "ours, int8"
SLOWER, FASTER, AGREEMENT_PCT = 1.03, 2.0, 99.5
"""Ours over the best of the others, at most; fp32 over int8, at least; same class as eager, at least."""


@dataclass
class Found:
    """What was measured of one network."""

    num_images: int
    says: dict[str, str]
    """Of each of our sides, what it runs on."""
    agreement_pct: dict[str, float]
    """Of each side, the share of photographs with eager's class."""
    ms: dict[int, dict[str, list[float]]] = field(default_factory=dict)
    """Of each batch size and side the time of a call, turn by turn."""

    def median(self, batch: int, side: str) -> float:
        """Return the time of a call, in ms."""
        return statistics.median(self.ms[batch][side])

    def best(self, batch: int) -> str:
        """Return the fastest of the others that give the same answers."""
        others = [side for side in self.ms[batch] if "ours" not in side and self.agreement_pct[side] >= AGREEMENT_PCT]
        return min(others, key=partial(self.median, batch))

    def fp32(self, batch: int) -> str:
        """Return our fastest side in fp32."""
        return min((side for side in self.ms[batch] if side.startswith(FP32)), key=partial(self.median, batch))

    def ratio(self, batch: int, over: str, under: str) -> float:
        """Return how many times as long the one takes as the other: the median over turns."""
        pairs = zip(self.ms[batch][over], self.ms[batch][under], strict=True)
        return statistics.median(one / other for one, other in pairs)

    def misses(self) -> list[str]:
        """Return which bounds are missed."""
        found = []
        for batch in self.ms:
            slower = self.ratio(batch, OURS, self.best(batch))
            faster = self.ratio(batch, self.fp32(batch), INT8)
            found += [f"batch {batch}: ours takes {slower:.2f} times the best"] if slower > SLOWER else []
            found += [f"batch {batch}: int8 is {faster:.2f} times as fast"] if faster < FASTER else []
        low = self.agreement_pct[OURS]
        return found + ([f"ours has the same class in {low:.2f} %"] if low < AGREEMENT_PCT else [])


def main() -> int:
    """Measure each network; return 1 where a bound is missed."""
    parser = argparse.ArgumentParser(description="time ours against each runtime, and int8 against fp32")
    parser.add_argument("names", nargs="*", default=list(NAMES), help="of the networks")
    parser.add_argument("--networks", type=Path, default=Path("networks"), help="folder of the model files")
    parser.add_argument("--data", type=Path, default=DATA, help="Imagenette at 64 pixels, parquet")
    parser.add_argument("--images", type=int, default=800, help="validation photographs to compare answers on")
    parser.add_argument("--turns", type=int, default=9, help="how often each side runs")
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
    """Return the int8 export of a network, which is made if it is not there."""
    made = file.with_name(f"{file.stem}-int8.onnx")
    if not made.exists():
        quantise = partial(_quantise, data=DataConfig(str(data)))
        print(f"{made}: {export(file, made, 'onnx', quantise=quantise).metadata.int8}", file=sys.stderr, flush=True)
    return made


def _quantise(graph, card, model, data: DataConfig):  # noqa: ANN202
    return quantize(graph, card, data, allowed_loss_pct=LOSS_PCT, model=model)


def measure(file: Path, int8: Path, options: argparse.Namespace, folder: Path) -> Found:
    """Open every side, compare their answers, and time them."""
    views = photographs(file, options.data, options.images)
    model, card = load_model(file)
    sides = raw_sides(model, card.preprocessing, folder)
    mine, says = our_sides(file, int8, folder)
    sides |= mine
    for batch in BATCHES:
        for answers in sides.values():
            answers(views[:batch])  # compiles, and prepares
    said = {side: classes_said(answers, views) for side, answers in sides.items()}
    agreement = {side: 100 * float((said["eager"] == classes).mean()) for side, classes in said.items()}
    found = Found(len(views), says, agreement)
    for batch in BATCHES:
        found.ms[batch] = times(sides, views[:batch], options.turns)
    return found


def photographs(file: Path, data: Path, count: int) -> np.ndarray:
    """Return validation photographs as a network sees them: uint8 (count, height, width, channels)."""
    _, card = load_model(file)
    val = open_eval_dataset(DataConfig(str(data), resident_mib=0), card.preprocessing, "val").split
    assert not isinstance(val.images, torch.Tensor)
    chosen = sample_order(0, 0, len(val))[:count]
    few = Split(val.images.subset(chosen), val.labels[chosen])
    batches = [
        pixels.permute(0, 2, 3, 1).numpy()
        for _, pixels, _ in eval_batches_with_positions(few, None, workers=usable_cores())
    ]
    return np.ascontiguousarray(np.concatenate(batches))


def our_sides(file: Path, int8: Path, folder: Path) -> tuple[dict[str, Answers], dict[str, str]]:
    """Return our sides, and what each runs on: chosen anew, by copies that have no notes beside them."""
    file, int8 = (Path(shutil.copy(one, folder)) for one in (file, int8))
    sides: dict[str, Answers] = {}
    says: dict[str, str] = {}
    for side, path in ((OURS, file), (INT8, int8)):
        told: list[str] = []
        sides[side] = load(path, backend="auto", tell=told.append).engine.logits
        says[side] = told[0] if told else "the only one"
    for backend in ("onnxruntime", "openvino"):
        try:
            sides[f"{FP32} {backend}"] = load(file, backend=backend).engine.logits
        except ConfigError as error:
            print(f"without {backend}: {error}", file=sys.stderr)
    return sides, says


def classes_said(answers: Answers, views: np.ndarray) -> np.ndarray:
    """Return the most probable class of each picture; the last batch is filled up, so that nothing is compiled anew."""
    size = BATCHES[-1]
    filled = np.resize(views, (-(-len(views) // size) * size, *views.shape[1:]))
    rows = [answers(filled[at : at + size]).argmax(1) for at in range(0, len(filled), size)]
    return np.concatenate(rows)[: len(views)]


def times(sides: dict[str, Answers], views: np.ndarray, turns: int) -> dict[str, list[float]]:
    """Return the time of a call of each side, in ms, turn by turn; who begins goes round."""
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
    """Print a table a batch size, 80 columns, and the ratios."""
    for side, words in found.says.items():
        print("\n" + textwrap.fill(f"{name}, {side} chooses {words}", COLUMNS))
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
    """Return the processor's name, and what of its instructions matters here."""
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
