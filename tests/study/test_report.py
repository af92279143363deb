"""The report: its numbers are the records', it holds its pictures, it fetches nothing, and it is seen in a browser."""

import csv
import json
import re
import shutil
import statistics
import subprocess
from html.parser import HTMLParser

import pytest
from PIL import Image

from resnetlab.config import ConfigError
from resnetlab.study.report import write_report
from resnetlab.training.record import read_record

from conftest import resnetlab

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def copy(tiny_study, tmp_path):
    return shutil.copytree(tiny_study, tmp_path / "study")


def test_the_folder_holds_what_it_should(tiny_study):
    assert {path.name for path in tiny_study.iterdir()} - {".lock"} == {
        "runs", "figures", "report.html", "results.csv", "results.json",
    }  # fmt: skip
    names = {path.name for path in (tiny_study / "figures").iterdir()}
    assert names == {"training-digits.png", "training-digits.svg", "training-digits-tall.svg"}


def test_results_are_the_records(tiny_study):
    results = json.loads((tiny_study / "results.json").read_text())
    assert len(results["runs"]) == 8
    for row in results["runs"]:
        record = read_record(tiny_study / row["directory"] / "record.jsonl")
        for key in ("train_error_pct", "val_error_pct", "test_error_pct", "time_s"):
            assert row[key] == record[-1][key]
        assert (row["params"], row["macs"]) == (record[0]["params"], record[0]["macs"])
        assert row["status"] == "done"
    (line,) = [line for line in results["table"] if (line["arm"], line["depth"]) == ("plain", 14)]
    tests = [r["test_error_pct"] for r in results["runs"] if (r["arm"], r["depth"]) == ("plain", 14)]
    assert line["test_error_pct"] == {"mean": statistics.fmean(tests), "std": statistics.stdev(tests), "count": 2}
    assert {effect["arm"] for effect in results["depth_effects"]} == {"plain", "residual"}


def test_csv_is_the_same_table(tiny_study):
    rows = json.loads((tiny_study / "results.json").read_text())["runs"]
    with (tiny_study / "results.csv").open() as file:
        for ours, theirs in zip(rows, csv.DictReader(file), strict=True):
            assert {key: "" if value is None else str(value) for key, value in ours.items()} == theirs


def test_drawn_again_from_the_records_alone(copy):
    made = [path for path in copy.glob("**/*") if path.suffix in (".html", ".csv", ".svg")] + [copy / "results.json"]
    before = {path: path.read_bytes() for path in made}
    for path in [*made, *copy.glob("runs/*/model.safetensors")]:
        path.unlink()
    done = resnetlab("report", copy)
    assert done.returncode == 0, done.stderr
    assert {path: path.read_bytes() for path in made} == before
    assert max(len(line) for line in done.stdout.splitlines() if not line.startswith("report: ")) <= 80


class Links(HTMLParser):
    """Collects what a page would fetch."""

    def __init__(self):
        super().__init__()
        self.fetched, self.images = [], 0

    def handle_starttag(self, tag, attrs):
        self.images += tag == "img"
        self.fetched += [
            value for key, value in attrs
            if key in ("src", "srcset", "href", "action", "data", "poster") and value and not value.startswith("data:")
        ]  # fmt: skip
        assert tag not in ("script", "iframe", "link", "object", "embed")


def test_the_page_holds_everything_itself(tiny_study):
    page = (tiny_study / "report.html").read_text()
    links = Links()
    links.feed(page)
    assert links.fetched == []
    assert links.images == 1
    assert not re.findall(r"url\(|@import|http", page.split("<body>")[0])


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_the_page_in_a_browser(tiny_study, tmp_path):
    assert CHROMIUM is not None
    quiet = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'profile'}",
    ]  # fmt: skip
    log = tmp_path / "net.json"
    page = f"file://{tiny_study / 'report.html'}"
    for width, name in ((1000, "desk"), (500, "phone")):
        shot = [f"--window-size={width},2400", "--hide-scrollbars", f"--screenshot={tmp_path / name}.png", page]
        subprocess.run([CHROMIUM, *quiet, f"--log-net-log={log}", *shot], check=True, capture_output=True, timeout=90)
        image = Image.open(tmp_path / f"{name}.png").convert("RGB")
        assert image.width == width
        colours = {colour for _, colour in image.getcolors(1 << 24) or []}
        assert {(0, 0x72, 0xB2), (0xD5, 0x5E, 0)} <= colours  # the curves of the two depths are on the page
        events = json.loads(log.read_text())["events"]
        asked = [event["params"] for event in events if "initiator" in event.get("params", {})]
        ours = [request for request in asked if request["initiator"] != "not an origin"]  # the browser's own
        assert [request["url"] for request in ours if not request["url"].startswith("data:")] == []


def test_one_seed_one_arm_and_a_failed_run_still_render(copy):
    for run in copy.glob("runs/*"):
        if "residual" in run.name or "seed1" in run.name:
            shutil.rmtree(run)
    record = copy / "runs" / "digits-plain-14-seed0" / "record.jsonl"
    record.write_text('{"kind": "result", "status": "failed", "error": "no <memory> left"}\n')
    results = write_report(copy)
    assert results["depth_effects"] == []
    page = (copy / "report.html").read_text()
    assert "No comparison of depths" in page
    assert "no &lt;memory&gt; left" in page
    assert "1 of 2 runs did not finish" in page


def test_nothing_but_failures_still_renders(copy):
    for record in copy.glob("runs/*/record.jsonl"):
        record.write_text('{"kind": "result", "status": "failed", "error": "x"}\n')
    assert write_report(copy)["table"][0]["num_failed"] == 2
    assert "8 of 8 runs did not finish" in (copy / "report.html").read_text()


def test_no_study_there(tmp_path):
    with pytest.raises(ConfigError, match="no study here"):
        write_report(tmp_path)
