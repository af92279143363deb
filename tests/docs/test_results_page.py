"""Numbers on docs/results.md equal those of the committed records."""

import csv
import re
import statistics

import pytest

from conftest import ROOT

PAGE = (ROOT / "docs" / "results.md").read_text()
RECORDS = ROOT / "docs" / "results"


def mean_and_deviation(file, split, arm, depth, deepened_from=""):
    with (RECORDS / file).open() as lines:
        rows = [
            r
            for r in csv.DictReader(lines)
            if (r["arm"], r["depth"], r["deepened_from"]) == (arm, depth, deepened_from)
        ]
    values = [float(row[f"{split}_error_pct"]) for row in rows]
    assert len(values) == 3
    return f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f}"


@pytest.mark.parametrize("arm", ["plain", "residual"])
@pytest.mark.parametrize("depth", ["20", "56"])
@pytest.mark.parametrize(
    ("file", "splits"),
    [("default-study.csv", ("train", "val", "test")), ("cifar10-short-study.csv", ("train", "test"))],
)
def test_studies(arm, depth, file, splits):
    cells = [mean_and_deviation(file, split, arm, depth) for split in splits]
    assert f"| {arm}-{depth} | {' | '.join(cells)} |" in PAGE


def test_every_record_is_named():
    assert [path.name for path in RECORDS.iterdir() if path.name not in PAGE] == []


@pytest.mark.parametrize("file", ["evaluate-cifar10.txt"])
def test_published_weights(file):
    intervals = re.findall(r"(\d+\.\d\d \(\d+\.\d\d to \d+\.\d\d\))", (RECORDS / file).read_text())
    assert len(intervals) == 5
    assert all(interval in PAGE for interval in intervals)


@pytest.mark.parametrize("network", ["resnet18", "resnet50"])
def test_inference_speed(network):
    text = (RECORDS / "inference-speed.txt").read_text()
    for batch in (1, 16):
        section = text.split(f"{network}, batch {batch} ")[1].split("\n\n")[0]
        for side in ("eager", "onnxruntime", "openvino bf16", "ours"):
            measured = re.search(rf"^  {side} +([\d.]+)", section, re.MULTILINE)
            assert measured
            assert f"| {measured[1]} |" in PAGE
