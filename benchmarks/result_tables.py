"""The tables of README.md and docs/results.md, computed from the records in docs/results.

Each function returns the rows of one table as Markdown. `results.py` writes them into the pages.
"""

import re
import statistics
from collections.abc import Callable, Sequence

import depth_tables
import table6_table
from records import RECORDS, markdown, read, study_cells, study_runs


def readme() -> str:
    """Return the table of results in README.md: digits, CIFAR-10, and published weights on CIFAR-10."""
    splits, files = ("train", "test"), ("default-study.csv", "cifar10-study.csv")
    labels = {
        ("plain", 20): "plain-20",
        ("plain", 56): "plain-56",
        ("plain-capped", 56): "plain-56, steps limited to 5 % of a layer",
        ("residual", 20): "residual-20",
        ("residual", 56): "residual-56",
    }
    published = dict(weights_rows())
    return markdown(
        ("network", *(f"{data}, {split}" for data in ("digits", "CIFAR-10") for split in splits)),
        *(
            (label, *(cell for file in files for cell in _cells(file, network, splits)))
            for network, label in labels.items()
        ),
        *(
            (f"{name}, published weights", "", "", "", published[f"{name}, one crop"][0])
            for name in ("ResNet-20", "ResNet-56")
        ),
    )


def _cells(file: str, network: tuple[str, int], splits: Sequence[str]) -> list[str]:
    """Return mean and deviation of the errors of a network; empty cells if the study does not have it."""
    return study_cells(file, *network, splits) if study_runs(file, *network) else [""] * len(splits)


def digits() -> str:
    """Return the table of the default study."""
    splits, file = ("train", "val", "test"), "default-study.csv"
    arms = [(arm, depth) for arm in ("plain", "plain-capped", "residual") for depth in (20, 56)]
    return markdown(
        ("network", "train error", "val error", "test error"),
        *((f"{arm}-{depth}", *study_cells(file, arm, depth, splits)) for arm, depth in arms),
        deepened("default-study.csv", len(splits)),
        ("the same, trained further", *study_cells(file, "plain", 56, splits, "20")),
    )


def cifar_400_steps() -> str:
    """Return the table of the study of 400 steps on CIFAR-10."""
    splits, file = ("train", "test"), "cifar10-short-study.csv"
    return markdown(
        ("network", "train error", "test error"),
        *((f"plain-{depth}", *study_cells(file, "plain", depth, splits)) for depth in (20, 56)),
        deepened(file, len(splits)),
        ("the same, trained for 400 steps more", *study_cells(file, "plain", 56, splits, "20")),
        *((f"residual-{depth}", *study_cells(file, "residual", depth, splits)) for depth in (20, 56)),
    )


def deepened(file: str, num_splits: int) -> tuple[str, ...]:
    """Return the row of the deepened network before training: it computes what plain-20 does."""
    report = {"default-study.csv": "presets.txt", "cifar10-short-study.csv": "cifar10-short-study.txt"}[file]
    found = re.search(r"inserted it is a plain-56.*?and has ([\d.]+ ± [\d.]+) %", " ".join(read(report).split()))
    assert found, report
    return "plain-20 deepened to 56 layers, not trained further", found[1], *([""] * (num_splits - 1))


def weights_rows() -> list[tuple[str, tuple[str, str, str]]]:
    """Return each protocol of the published weights: top-1 error with interval, top-5 and calibration error."""
    row = re.compile(r"^(\S.*?) {2,}([\d.]+ \([\d.]+ to [\d.]+\)) +([\d.]+) +([\d.]+)", re.MULTILINE)
    return [(name, (top1, top5, ece)) for name, top1, top5, ece in row.findall(read("evaluate-cifar10.txt"))]


def weights() -> str:
    """Return the table of the published CIFAR-10 weights."""
    heading = ("network and protocol", "top-1 error (95 % interval)", "top-5 error", "calibration error")
    return markdown(heading, *((name, *cells) for name, cells in weights_rows()))


def finetuning() -> str:
    """Return the table of fine-tuning against training from scratch."""
    text = read("finetune.txt")
    labels = {
        "fine-tuned": "fine-tuned, 240 steps",
        "from scratch": "from scratch, the same recipe",
        "from scratch, its own way": "from scratch, a recipe of its own, 1,200 steps",
    }
    means = dict(re.findall(r"^(\S.*?) +test error ([\d.]+ ± [\d.]+) %$", text, re.MULTILINE))
    less = re.search(r"its own way: (-[\d.]+) points \(95 % interval (-[\d.]+) to (-[\d.]+)\)", text)
    assert less
    difference, low, high = (value.replace("-", "−") for value in less.groups())
    return markdown(
        ("training", "test error"),
        *((label, means[name]) for name, label in labels.items()),
        ("fine-tuned minus the better of these", f"{difference} points (95 % interval {low} to {high})"),
    )


def train_speed() -> str:
    """Return the table of the training speed against a plain loop."""
    rows, counts = [], {3: "three", 5: "five"}
    for name, title in (("resnet20", "ResNet-20"), ("resnet56", "ResNet-56")):
        line = next(line for line in read("train-speed.txt").splitlines() if line.startswith(f"{name} ("))
        ratios = re.search(r"ratios ([\d. ]+), median ([\d.]+) .*; (\d+) % of .* data wait ([\d.]+) %", line)
        assert ratios, line
        values = ratios[1].split()
        cell = f"{ratios[2]} ({min(values)} to {max(values)})"
        rows.append((f"{title}, {counts[len(values)]} pairs", cell, f"{ratios[3]} %", f"{float(ratios[4]):.1f} %"))
    return markdown(
        ("network", "ratio, median (range)", "share of the matrix-multiply peak", "waiting for data"), *rows
    )


INFERENCE_ROWS = {
    "eager": "PyTorch eager",
    "compiled fp32": "PyTorch compiled, fp32",
    "compiled bf16": "PyTorch compiled, bf16",
    "onnxruntime": "ONNX Runtime",
    "openvino fp32": "OpenVINO, fp32",
    "openvino bf16": "OpenVINO, bf16",
    "ours": "resnetlab, `--backend auto`",
    "ours, int8": "resnetlab, int8 with 8-bit weights (exports now use 7 bits)",
}


def inference_speed() -> str:
    """Return the table of inference speeds."""
    sections = [
        read("inference-speed.txt").split(f"{network}, batch {batch} ")[1].split("\n\n")[0]
        for network in ("resnet18", "resnet50")
        for batch in (1, 16)
    ]

    def cells(pattern: str) -> list[str]:
        found = [re.search(pattern, section, re.MULTILINE) for section in sections]
        return [match[1] if match else "" for match in found]

    rows = [
        (title, *cells(rf"^  {re.escape(side)} +([\d.]+) +[\d.]+ +[\d.]+ %")) for side, title in INFERENCE_ROWS.items()
    ]
    best = ("`auto` over the best other runtime", *cells(r"ours / openvino bf16: ([\d.]+)"))
    return markdown(("", "ResNet-18, batch 1", "batch 16", "ResNet-50, batch 1", "batch 16"), *rows, best)


def predict_speed() -> str:
    """Return the table of the speed from files to classes."""
    text, rows = read("predict-speed.txt").split("--turns 1")[0], []
    for name, title in (
        ("resnet50:224", "ResNet-50, 224 pixels"),
        ("resnet18:224", "ResNet-18, 224 pixels"),
        ("resnet20:32", "ResNet-20, 32 pixels"),
    ):
        found = re.search(rf"^{name}:.* c ([\d,.]+) .*; c is (\d+)% of d", text, re.MULTILINE)
        assert found, name
        speed = float(found[1].replace(",", ""))
        rows.append((title, f"{speed:,.0f}" if speed > 1000 else found[1], f"{int(found[2]) / 100:.2f}"))
    return markdown(
        ("images from files to classes", "images/s", "over decoding and network alone on the same cores"), *rows
    )


def ranks() -> str:
    """Return the table of training over several processes against one; of rows measured twice the later one."""
    first, second, spans = "", [], []
    for part in read("ranks.txt").split("$ python ")[1:]:
        rows: dict[str, list[str]] = {}
        for line in part.splitlines():
            if re.match(r"\| \d", line):
                name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
                rows[name.partition(",")[0]] = cells
        steps = {name: [float(value) for value in cells[0].split(",")] for name, cells in rows.items()}
        first = first or f"{max(values[0] for values in steps.values()):.0e}".replace("e-0", "e−")
        rounded = steps.pop("1")
        largest = [max(values) for values in zip(*steps.values(), strict=True)]
        pairs = [f"{two:.1e} and {three:.1e}".replace("e-0", "e−") for _, two, three in (largest, rounded)]
        alone = [float(cell) for cell in rows.pop("1")[1:]]
        ratios = [float(cell) / one for cells in rows.values() for cell, one in zip(cells[1:], alone, strict=True)]
        found = re.search(r"--lr ([\d.]+)", part)
        rate = found[1] if found else "0.1"
        second.append(f"{pairs[0]}, by that other layout {pairs[1]}, at lr {rate}")
        mean = statistics.fmean(ratios)
        span = f"{min(ratios):.1f} to {max(ratios):.1f} times (mean {mean:.1f}) at lr {rate}"
        spans.append(span)
    return markdown(
        ("what", "measured"),
        ("loss at the first step, relative difference", first),
        ("at steps 2 and 3, largest; of one process with another memory layout", "; ".join(second)),
        (
            "mean difference over each tenth of the run, over that of one process against itself with another memory "
            "layout",
            ", ".join(spans),
        ),
        ("evaluation of one model file, 10,000 images", "identical counts and loss"),
    )


def plan() -> str:
    """Return the table of the plan's errors on this machine."""
    errors: dict[str, list[str]] = {}
    for name, error in re.findall(r"^\| (resnet\d+) \|.* \| ([+-]\d+) % \|$", read("plan-check.txt"), re.MULTILINE):
        errors.setdefault(name, []).append(error.replace("-", "−"))
    rows = [
        (title, f"{one}, {two} %", f"{three}, {four} %")
        for name, title in (("resnet20", "ResNet-20"), ("resnet8", "ResNet-8"))
        for one, two, three, four in [errors[name]]
    ]
    return markdown(("network", "first", "second"), *rows)


def paper_table6() -> str:
    """Return the table beside the paper's Table 6."""
    return table6_table.table(table6_table.read_records(RECORDS / "table6"))


TABLES: dict[str, Callable[[], str]] = {
    "readme": readme,
    "digits": digits,
    "cifar-400-steps": cifar_400_steps,
    "weights": weights,
    "finetuning": finetuning,
    "train-speed": train_speed,
    "inference-speed": inference_speed,
    "predict-speed": predict_speed,
    "ranks": ranks,
    "plan": plan,
    "table6": paper_table6,
    "cifar10-errors": depth_tables.cifar10_errors,
    "cifar10-differences": depth_tables.cifar10_differences,
    "data-sets": depth_tables.data_sets,
}
"""Every generated table, by the name in its marker."""
