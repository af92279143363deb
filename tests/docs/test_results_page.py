"""Numbers of docs/results.md and README.md: tables are computed from the committed records, others are found there."""

import csv
import json
import re
import statistics
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from resnetlab.literature.paper import find_result

from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import depth_tables
import result_tables
import results

PAGE = (ROOT / "docs" / "results.md").read_text()
README = (ROOT / "README.md").read_text()
SCALE = (ROOT / "docs" / "scale.md").read_text()
RECORDS = ROOT / "docs" / "results"
SECTIONS = {section.partition("\n")[0]: section for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]}
NUMBER = re.compile(r"(?<![\w.,×/-])[−-]?\d[\d,]*(?:\.\d+)?(?:e[−-]?\d+)?(?![\w]|[.,]?\d)")
NAMES = re.compile(
    r"\d{4}-\d\d-\d\d|\b(?:sections?|Tables?|seeds?) [\d.]+(?:(?:,| and| to) [\d.]+)*|9[59] %(?: interval)?|\b\w+-\d+\b"
    r"|\d+×\d+|PyTorch [\d.]+|GeForce \d+"
)
"""Dates, references, names and conditions that contain digits."""


def record(name):
    return (RECORDS / name).read_text()


def column(file, name, arm, depth):
    with (RECORDS / file).open() as lines:
        rows = [row for row in csv.DictReader(lines) if (row["arm"], row["depth"]) == (arm, depth)]
    return [float(row[name]) for row in rows if not row.get("deepened_from")]


def cifar_errors(arm, depth):
    return column("cifar10-study.csv", "train_error_pct", arm, depth)


def iou(row):
    return [float(value) for value in re.findall(rf"{row} +([\d.]+)", record("segment-shapes.txt"))]


def speeds(letter):
    return [float(value.replace(",", "")) for value in re.findall(rf" {letter} ([\d,.]+)", record("predict-speed.txt"))]


def old_plain_56():
    return column("default-study-avx512.csv", "train_error_pct", "plain", "56")


def confusion():
    """The studies with a cause to find, and those of them that end in "not enough evidence"."""
    rows = re.findall(r"^([a-z -]+?) {2,}([·\d ]+)$", record("verdict-confusion.txt"), re.MULTILINE)
    cells = {name: [int(cell) if cell != "·" else 0 for cell in line.split()] for name, line in rows}
    known = [line for name, line in cells.items() if name != "undecided"]
    return sum(map(sum, known)), sum(line[-1] for line in known)


DERIVED = {
    "Degradation on digits": lambda: [
        15 / 0.01,  # the step of a layer over the learning rate: the gradient over the weights
        20 / 0.01,
        statistics.fmean(old_plain_56()),
        statistics.stdev(old_plain_56()),
    ],
    "How often a verdict is wrong": confusion,
    "Depth on CIFAR-10, 8,000 steps": lambda: [
        deep - shallow  # by seed
        for deep, shallow in zip(cifar_errors("plain", "56"), cifar_errors("plain", "20"), strict=True)
    ],
    "Plain against residual on several data sets": lambda: [100, 200],  # per cent; new images in the example
    "Published CIFAR-10 weights": lambda: [100 - 8.27, 100 - 6.61],
    "Training speed": lambda: [100],  # the upper end of the recipe's boxes, 8 to 100 %
    "Inference speed": lambda: [
        *(c / a for c, a in zip(speeds("c"), speeds("a"), strict=True)),
        *(int(pct) / 100 for pct in re.findall(r"c is (\d+)%", record("predict-speed.txt"))),
    ],
    "Plan": lambda: [
        *map(float, re.findall(r"\| ([+-]\d+) % \|", SCALE.replace("−", "-"))),  # computed by a test of that page
        len(re.findall(r"^\| ResNet-\d+", SCALE.partition("| held out:")[2], re.MULTILINE)),
    ],
    "Other measurements": lambda: [
        *(
            value
            for row in ("all stages", "stem alone")
            for value in (statistics.fmean(iou(row)), statistics.stdev(iou(row)))
        ),
        200,  # unseen images in the example
        50,
    ],
    "The rename changed no result": lambda: [
        len(re.findall(r"weights study/runs/(?!.*from)", record("compare-checkouts.txt")))
    ],
}
"""Numbers that follow from those of a section's records."""


def numbers(text):
    text = NAMES.sub(
        " ", re.sub(r"`[^`]*`|\]\([^)]*\)|<!-- results.*?<!-- end of results -->", " ", text, flags=re.DOTALL)
    )
    return [match[0] for match in NUMBER.finditer(text)]


def recorded(files):
    text = " ".join(record(file) for file in files).replace("−", "-")
    return [float(value.replace(",", "")) for value in re.findall(r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?", text)]


def is_recorded(number, values):
    """Whether one of the values, rounded as the number is, equals it; the sign is the text's."""
    text = number.replace("−", "-").replace(",", "").lstrip("-")
    if "e" in text:
        return any(value and abs(value / float(text) - 1) < 0.06 for value in values)
    return any(f"{abs(value):.{len(text.partition('.')[2])}f}" == text for value in values)


@pytest.mark.parametrize("title", SECTIONS)
def test_every_number_has_a_record(title):
    section = SECTIONS[title]
    files = [path.name for path in RECORDS.iterdir() if path.is_file() and path.name in section]
    values = recorded(files) + list(DERIVED.get(title, list)())
    assert [number for number in numbers(section) if not is_recorded(number, values)] == []


AT_50, AT_18 = r"resnet50, batch 1 [\s\S]*?", r"resnet18, batch 1 [\s\S]*?"
HEADLINES = (
    (README, "compiled, N times a plain fp32", "train-speed.txt", r"resnet20 \(bf16, compile on\).* median N"),
    (
        README,
        "bf16) N ms per image, PyTorch eager N ms",
        "inference-speed.txt",
        f"{AT_50}  ours +N",
        f"{AT_50}eager +N",
    ),
    (README, "same class on N % of", "inference-speed.txt", rf"{AT_50}  ours +\S+ +\S+ +N %"),
    (PAGE, "int8 gives the same class on N % for ResNet-18", "inference-speed.txt", rf"{AT_18}int8 +\S+ +\S+ +N %"),
    (
        PAGE,
        "same class on N % of 500 and loses N points",
        "inference-speed.txt",
        rf"{AT_50}int8 +\S+ +\S+ +N %",
        "errs N p",
    ),
    (
        PAGE,
        "one client, median | N ms; decoding and network alone N ms; ratio N |",
        *("serve-load.txt", "one client, p50.* N ms; ", "one client, p50.* ms; N", r"ms; .*\n  their ratio +N"),
    ),
    (
        PAGE,
        "32 clients | N images/s; the network alone at full batches N; ratio N;",
        *("serve-load.txt", "32 clients; .* N/s; ", "32 clients; .*/s; N", r"/s; .*\n  their ratio +N"),
    ),
    (
        PAGE,
        "32 clients got N of the network alone (N and N images/s)",
        *("serve-overload.txt", r"/s; .*\n  ratio +N", "32 clients; .* N/s; ", "32 clients; .*/s; N"),
    ),
    (PAGE, "N (0.452, 0.585, 0.594): 26.5 s", "study-speed.txt", "median N"),
    (PAGE, "same kind N: 54 to 56 s", "study-speed.txt", r"median [\s\S]*median N"),
    (
        PAGE,
        "test error | N ± N and N ± N; difference −N",
        *("bf16-agreement.txt", *(f"test_error_pct: .*{place}" for place in ("bf16 N ±", "bf16 .*? ± N,"))),
        *(f"test_error_pct: .*{place}" for place in ("fp32 N ±", "fp32 .*? ± N, bf16", "difference -N,")),
    ),
    (PAGE, "5 random blocks they err on N and N %", "lesion-cifar10.txt", r"\n5 random .* N\n", r"\n5 random \D*N "),
)
"""The page; the place of each number N there; the record; and the place of each N in the record."""


def with_numbers(pattern):
    return re.sub(r"\bN\b", lambda _: r"(\d+(?:\.\d+)?)", pattern)


@pytest.mark.parametrize(("page", "text", "file", "places"), [(*row[:3], row[3:]) for row in HEADLINES])
def test_a_headline_number_is_the_one_of_its_record(page, text, file, places):
    """A number that stands elsewhere in the records of its section is none of them."""
    found = re.search(with_numbers(re.escape(text).replace(r"\ ", r"\s+")), page)
    assert found is not None
    for number, place in zip(found.groups(), places, strict=True):
        expected = re.search(with_numbers(place), record(file))
        assert expected is not None, place
        assert f"{float(expected[1]):.{len(number.partition('.')[2])}f}" == number


def test_a_number_without_a_record_is_found():
    text = "took 384 and 512 MiB, 8.27 %, 1.5e−4; ResNet-20, Table 6, 2026-11-24, `x 7`"
    found = numbers(text)
    assert found == ["384", "512", "8.27", "1.5e−4"]
    assert [number for number in found if not is_recorded(number, [8.271, 512.0])] == ["384", "1.5e−4"]


def test_numbers_of_the_readme():
    """The prose of its results; the table is computed."""
    prose = README.split("## Results\n")[1].split("\n## ")[0]
    values = recorded(["train-speed.txt", "inference-speed.txt", "evaluate-cifar10.txt", "cifar10-study.txt"])
    computed = [float(number) for number in re.findall(r"\d+\.\d+", depth_tables.cifar10_differences())]
    assert [number for number in numbers(prose) if not is_recorded(number, [*values, *computed, 10_000])] == []


def test_the_effect_of_depth_in_the_readme_is_the_computed_one():
    rows = depth_tables.cifar10_differences().splitlines()
    row = next(row for row in rows if row.startswith("| residual-56 minus residual-20 |"))
    train, test = re.findall(r"−([\d.]+) \(−([\d.]+) to −([\d.]+)\)", row)
    sentence = (
        f"residual-56 ends {train[0]} points of training error (95 % interval {train[2]} to {train[1]}) and {test[0]} "
        f"of test error ({test[2]} to {test[1]}) below residual-20"
    )
    assert sentence in " ".join(README.split())


@pytest.mark.parametrize(
    ("page", "start", "end", "file"),
    [
        ("serve.md", "ResNet-50 at 224 pixels, OpenVINO", "\n## ", "serve-load.txt"),
        ("export.md", "These figures were measured", "\n## ", "inference-speed.txt"),
        ("train.md", "ResNet-1202 at batch 128", "\n\n", "recompute.txt"),
    ],
)
def test_numbers_of_other_pages(page, start, end, file):
    text = (ROOT / "docs" / page).read_text().split(start)[1].split(end)[0]
    found = numbers(text)
    assert len(found) >= 3
    assert [number for number in found if not is_recorded(number, recorded([file]))] == []


def test_pages_are_written_from_the_records():
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "results.py", "--check"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_every_table_is_on_a_page():
    used = [found["name"] for page in (README, PAGE) for found in results.BLOCK.finditer(page)]
    assert sorted(used) == sorted(result_tables.TABLES)


def test_a_table_that_differs_is_written_again():
    """Also an empty one; nothing outside the markers changes."""
    end = "<!-- end of results -->"
    page = f"a\n\n<!-- results: plan -->\n\n{{}}{end}\n\n## b\n\n<!-- results: ranks -->\n{end}"
    table = result_tables.plan()
    for before in ("", "| old |\n\n", f"{table}\n\n"):
        text = results.written(page.format(before))
        assert f"{table}\n" in text
        assert "\n\n## b\n\n" in text
        assert "0.6 to 2.0 times (mean 1.1) at lr 0.1" in text


@pytest.mark.parametrize("record", sorted(RECORDS.glob(f"*{results.CURVES}")), ids=lambda record: record.stem)
def test_a_figure_is_drawn_from_its_record(record, tmp_path):
    results.draw(record, tmp_path / "figure.png")
    stored = results.FIGURES / f"{record.name.removesuffix(results.CURVES)}.png"
    assert changed_share(tmp_path / "figure.png", stored) < 0.02
    runs = json.loads(record.read_text())
    for epoch in runs[0]["epochs"]:
        epoch["val_error_pct"] *= 0.8
    changed = tmp_path / f"changed{results.CURVES}"
    changed.write_text(json.dumps(runs))
    results.draw(changed, tmp_path / "changed.png")
    assert changed_share(tmp_path / "changed.png", stored) > 0.02


def changed_share(*files):
    """Return the share of the coloured pixels, which are curves, that differ; text is grey, and fonts vary."""
    first, second = (np.asarray(Image.open(file).convert("RGB"), np.int16) for file in files)
    coloured = np.maximum(*(np.ptp(image, axis=2) for image in (first, second))) > 40
    return (np.abs(first - second).max(2)[coloured] > 32).mean()


def test_the_curves_end_as_the_study_did():
    with (RECORDS / "default-study.csv").open() as lines:
        errors = {
            row["directory"]: float(row["val_error_pct"]) for row in csv.DictReader(lines) if not row["deepened_from"]
        }
    curves = {
        run["run"]: run["epochs"][-1]["val_error_pct"]
        for run in results.stored_curves(RECORDS / "default-study-curves.json")
    }
    assert {f"runs/{name}": error for name, error in curves.items()} == pytest.approx(errors, rel=1e-3)


def test_every_record_is_named():
    assert [path.name for path in RECORDS.iterdir() if path.name not in PAGE] == []


def test_rows_of_table_6_are_empty_or_recorded():
    table = result_tables.paper_table6()
    for depth in (20, 32, 44, 56):
        paper = find_result(f"resnet{depth}", "test_error_pct")
        assert paper is not None
        assert f"| resnet{depth} | {paper.value:g} |" in table
    if not list((RECORDS / "table6").glob("*.json")):
        assert "No run has ended: the rows are empty." in table
