"""Report: numbers equal those of the records; the page embeds its figures, loads nothing and renders in a browser."""

import csv
import io
import json
import re
import shutil
import statistics
import subprocess
from html.parser import HTMLParser

import pytest
from PIL import Image

from resnetlab.config import ConfigError
from resnetlab.data.registry import CIFAR10
from resnetlab.study.reports import report
from resnetlab.study.reports.report import render_csv, write_report
from resnetlab.training.run_files.record import read_record

from conftest import ROOT, resnetlab

THREE = '"stage_blocks": [\n      3,\n      3,\n      3'
"""The blocks of 20 layers, in a configuration of 8."""

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def copy(tiny_study, tmp_path):
    return shutil.copytree(tiny_study, tmp_path / "study")


@pytest.fixture
def no_figures(monkeypatch):
    """A page without figures, which take seconds."""
    monkeypatch.setattr(report, "draw_figures", lambda runs, out: [])


def test_files_of_a_study(tiny_study):
    assert {path.name for path in tiny_study.iterdir()} - {".lock"} == {
        "runs",
        "figures",
        "report.html",
        "results.csv",
        "comparisons.csv",
        "results.json",
    }
    names = {path.name for path in (tiny_study / "figures").iterdir()}
    assert names == {
        f"{kind}-digits{form}"
        for kind in ("training", "depth", "gradients", "responses")
        for form in (".png", ".svg", "-tall.svg")
    }


def test_the_chance_level_is_in_page_and_json(tiny_study):
    (level,) = json.loads((tiny_study / "results.json").read_text())["chance"]
    run = read_record(tiny_study / "runs" / "digits-residual-8-seed0" / "record.jsonl")[-1]
    assert level["error_pct"] == run["chance"]["test"]["error_pct"]
    assert level["sentence"].startswith(f"Chance level on digits: {level['error_pct']:.2f} % test error")
    assert level["sentence"].replace("'", "&#39;") in (tiny_study / "report.html").read_text()


def test_results_equal_the_records(tiny_study):
    results = json.loads((tiny_study / "results.json").read_text())
    assert len(results["runs"]) == 10
    for row in results["runs"]:
        record = read_record(tiny_study / row["directory"] / "record.jsonl")
        for key in ("train_error_pct", "val_error_pct", "test_error_pct", "time_s"):
            assert row[key] == record[-1][key]
        assert (row["params"], row["macs"]) == (record[0]["params"], record[0]["macs"])
        assert row["status"] == "done"
    (entry,) = [entry for entry in results["table"] if entry["network"] == "plain-14"]
    tests = [
        r["test_error_pct"]
        for r in results["runs"]
        if (r["arm"], r["depth"], r["deepened_from"]) == ("plain", 14, None)
    ]
    assert entry["test_error_pct"] == {"mean": statistics.fmean(tests), "std": statistics.stdev(tests), "count": 2}
    assert {effect["arm"] for effect in results["depth_effects"]} == {"plain", "residual"}


def test_csv_equals_the_json(tiny_study):
    rows = json.loads((tiny_study / "results.json").read_text())["runs"]
    with (tiny_study / "results.csv").open() as file:
        for ours, theirs in zip(rows, csv.DictReader(file), strict=True):
            assert {key: "" if value is None else str(value) for key, value in ours.items()} == theirs


def test_comparisons_equal_the_records(tiny_study):
    results = json.loads((tiny_study / "results.json").read_text())
    with (tiny_study / "comparisons.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(results["comparisons"]) == 2 * 3  # depths, splits
    errors = {
        (r["arm"], r["depth"], r["seed"]): r["test_error_pct"] for r in results["runs"] if r["deepened_from"] is None
    }
    (row,) = [r for r in rows if (r["depth"], r["split"]) == ("14", "test")]
    by_seed = [errors["residual", 14, seed] - errors["plain", 14, seed] for seed in (0, 1)]
    assert float(row["mean"]) == pytest.approx(statistics.fmean(by_seed))
    assert row["points"] == "; ".join(f"{seed}: {value:g}" for seed, value in enumerate(by_seed))
    assert float(row["interval_95_low"]) < float(row["mean"]) < float(row["interval_95_high"])


def test_report_is_reproduced_from_the_records_alone(copy, tiny_study):
    """To the byte, except that commands name the folder of the study."""
    files = [path for path in copy.glob("**/*") if path.suffix in (".html", ".csv", ".svg")] + [copy / "results.json"]
    made = [path.read_bytes() for path in files]
    before = {path: b.replace(bytes(tiny_study), bytes(copy)) for path, b in zip(files, made, strict=True)}
    for path in [*files, *copy.glob("runs/*/model.safetensors")]:
        path.unlink()
    done = resnetlab("report", copy)
    assert done.returncode == 0, done.stderr
    assert {path: path.read_bytes() for path in files} == before
    assert (
        max(len(line) for line in done.stdout.splitlines() if not line.startswith(("report: ", "  resnetlab "))) <= 80
    )


class Links(HTMLParser):
    """Parser that collects the URLs a page would load."""

    def __init__(self):
        super().__init__()
        self.fetched, self.images = [], 0

    def handle_starttag(self, tag, attrs):
        self.images += tag == "img"
        self.fetched += [
            value
            for key, value in attrs
            if key in ("src", "srcset", "href", "action", "data", "poster") and value and not value.startswith("data:")
        ]
        assert tag not in ("script", "iframe", "link", "object", "embed")


def test_page_is_self_contained(tiny_study):
    page = (tiny_study / "report.html").read_text()
    links = Links()
    links.feed(page)
    assert links.fetched == []
    assert links.images == 4
    assert not re.findall(r"url\(|@import|http", page.split("<body>")[0])


def test_page_has_the_shared_style_sheet(tiny_study):
    style = (ROOT / "src" / "resnetlab" / "html_style.css").read_text()
    assert "--ink" in style
    assert f"<style>\n{style}</style>" in (tiny_study / "report.html").read_text()


def test_no_column_is_hidden(tiny_study):
    """On a phone tables scroll, with a shadow where columns follow."""
    page = (tiny_study / "report.html").read_text()
    assert "display: none" not in page
    assert page.count('<div class="scroll"><table') == page.count("<table")
    shadow = re.search(r"\.scroll \{[^}]*\}", page)
    assert shadow
    assert "local" in shadow[0]
    assert "scroll;" in shadow[0]


def test_the_study_started_with_its_first_run(copy, no_figures):
    """Runs are listed by depth and arm, but the deepest are trained first."""
    started = {}
    for number, run in enumerate(sorted(copy.glob("runs/*"), reverse=True)):
        started[run.name] = f"2026-11-29T20:{number:02}:00+00:00"
        rewrite_start(run / "record.jsonl", started=started[run.name])
    write_report(copy)
    page = (copy / "report.html").read_text()
    assert f"<dt>started</dt><dd>{min(started.values())}</dd>" in page
    assert started["digits-plain-8-seed0"] not in page


def test_every_machine_is_named(copy, no_figures):
    run = copy / "runs" / "digits-plain-14-seed0"
    machine = {"name": "Other CPU", "cores": 64, "system": "Linux", "threads": 4, "device": "cuda"}
    rewrite_start(run / "record.jsonl", machine=machine)
    write_report(copy)
    page = (copy / "report.html").read_text()
    assert "; Other CPU, 64 cores, Linux; 4 threads per run on cuda</dd>" in page
    assert "on one core" not in page


def test_a_study_without_a_test_set_does_not_claim_one(copy):
    for run in copy.glob("runs/*"):
        if "from" in run.name or "seed1" in run.name:  # fewer curves are drawn faster
            shutil.rmtree(run)
            continue
        rewrite(
            run / "record.jsonl", lambda line: {**line, "test_error_pct": None} if "test_error_pct" in line else line
        )
    write_report(copy)
    page = (copy / "report.html").read_text()
    assert "There is no test set." in page
    assert "evaluated at the end" not in page
    assert "Final training error and validation error on digits" in page


def test_the_recipe_has_no_empty_fields(tiny_study):
    page = (tiny_study / "report.html").read_text()
    recipe = re.search(r"<dt>recipe</dt><dd>(.*?)</dd>", page)
    assert recipe
    fields = recipe[1].split("; ")
    assert "batch_size 16" in fields
    assert "flip no" in fields
    assert all(len(field.split()) > 1 for field in fields)
    assert not {"True", "False", "None"} & set(recipe[1].replace(";", "").split())


@pytest.mark.slow  # test_page_is_self_contained reads the page
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_page_in_a_browser(tiny_study, tmp_path):
    assert CHROMIUM is not None
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-sync",
        "--disable-background-networking",
        "--disable-component-update",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    log = tmp_path / "net.json"
    page = f"file://{tiny_study / 'report.html'}"
    for width, name in ((1000, "desk"), (500, "phone")):
        shot = [f"--window-size={width},3600", "--hide-scrollbars", f"--screenshot={tmp_path / name}.png", page]
        subprocess.run([CHROMIUM, *flags, f"--log-net-log={log}", *shot], check=True, capture_output=True, timeout=90)
        image = Image.open(tmp_path / f"{name}.png").convert("RGB")
        assert image.width == width
        colours = {colour for _, colour in image.getcolors(1 << 24) or []}
        assert {(0, 0x72, 0xB2), (0, 0x9E, 0x73)} <= colours  # the lines of the two arms are on the page
        events = json.loads(log.read_text())["events"]
        requests = [event["params"] for event in events if "initiator" in event.get("params", {})]
        page_requests = [
            request for request in requests if request["initiator"] != "not an origin"
        ]  # not those of the browser itself
        assert [request["url"] for request in page_requests if not request["url"].startswith("data:")] == []


def test_page_of_one_seed_one_arm_and_a_failed_run(copy, no_figures):
    for run in copy.glob("runs/*"):
        if "residual" in run.name or "seed1" in run.name:
            shutil.rmtree(run)
    record = copy / "runs" / "digits-plain-14-seed0" / "record.jsonl"
    record.write_text('{"kind": "result", "status": "failed", "error": "no <memory> left"}\n')
    results = write_report(copy)
    assert results["depth_effects"] == []
    page = (copy / "report.html").read_text()
    assert [finding["kind"] for finding in results["findings"]] == ["not enough evidence"]
    assert "one depth only, plain-8" in page
    assert "no &lt;memory&gt; left" in page
    assert "1 of 3 runs did not finish" in page


def rewrite(record, change):
    """Replace each line of a record by `change(line)`."""
    lines = [change(line) for line in read_record(record)]
    record.write_text("".join(json.dumps(line) + "\n" for line in lines if line))


def rewrite_start(record, **fields):
    """Change fields of the record's first line."""
    rewrite(record, lambda line: {**line, **fields} if line["kind"] == "run" else line)


def test_runs_that_ended_in_nan_are_exploding(copy):
    """Their records have layer stats that are not finite, no epochs and no errors."""

    def in_nan(line):
        if line["kind"] == "signal":
            values = [None] * len(line["layers"])
            not_finite = dict.fromkeys(("grad_norm", "grad_to_weight", "response_std", "activation_var"), values)
            return {**line, **not_finite, "loss": None} if line["step"] == 1 else None
        if line["kind"] == "result":
            return {"kind": "result", "status": "diverged", "error": "the loss is nan at steps 1 to 10 of 78"}
        return line if line["kind"] == "run" else None

    for record in copy.glob("runs/digits-plain-14-seed*/record.jsonl"):
        rewrite(record, in_nan)
    results = write_report(copy)
    findings = {finding["arm"]: finding for finding in results["findings"]}
    assert findings["plain"]["kind"] == "exploding"
    assert "(2 of 2 runs end in NaN)" in findings["plain"]["sentence"]
    (entry,) = [entry for entry in results["table"] if entry["network"] == "plain-14"]
    assert entry["first_gradient"] == {"mean": None, "std": None, "count": 2}
    page = (copy / "report.html").read_text()
    assert "<td>not finite</td>" in page
    assert "the loss is nan at steps 1 to 10 of 78" in page
    json.loads((copy / "results.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_published_results_for_runs_on_cifar(copy, no_figures):
    sizes = {"classes": list(CIFAR10), "num_train": 45_000, "num_val": 5_000, "num_test": 10_000}
    for record in copy.glob("runs/*/record.jsonl"):
        rewrite(record, lambda line: line | ({"data": line["data"] | sizes} if line["kind"] == "run" else {}))
        config = record.with_name("config.json")
        config.write_text(config.read_text().replace('"stage_blocks": [\n      1,\n      1,\n      1', THREE))
    results = write_report(copy)
    assert {entry["cell"]["network"] for entry in results["published"]} == {"plain20", "resnet20"}
    assert not any(entry["is_reproduction"] for entry in results["published"])
    page = (copy / "report.html").read_text()
    assert "not a reproduction: " in page
    assert "78 steps instead of 64,000" in page
    with (copy / "results.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["arm"] == "residual" and row["depth"] == "20"]
    assert {(row["paper_error_pct"], row["paper_where"]) for row in rows} == {("8.75", "Table 6")}
    assert all("batch 16 instead of 128" in row["paper_deviations"] for row in rows)


def test_no_published_result_for_digits(tiny_study):
    assert json.loads((tiny_study / "results.json").read_text())["published"] == []
    assert "No published result is comparable" in (tiny_study / "report.html").read_text()


def test_page_of_failed_runs_only(copy):
    for record in copy.glob("runs/*/record.jsonl"):
        record.write_text('{"kind": "result", "status": "failed", "error": "x"}\n')
    assert write_report(copy)["table"][0]["num_failed"] == 2
    assert "10 of 10 runs did not finish" in (copy / "report.html").read_text()


def test_folder_without_a_study(tmp_path):
    with pytest.raises(ConfigError, match="no study here"):
        write_report(tmp_path)


def test_cells_of_the_csv_are_no_formulas():
    """Names of data and messages of errors come from outside; numbers stay numbers."""
    texts = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "plain", "", 'a"b,=c']
    rows = [{"data": text, "error_pct": -1.5, "seed": -3, "none": None} for text in texts]
    read = list(csv.DictReader(io.StringIO(render_csv(rows), newline="")))
    assert [row["data"] for row in read] == [*(f"'{text}" for text in texts[:5]), "' =1", *texts[6:]]
    assert {(float(row["error_pct"]), int(row["seed"]), row["none"]) for row in read} == {(-1.5, -3, "")}


def test_a_damaged_results_file_is_written_again(copy, tiny_study, no_figures):
    """Nothing reads results.json: a report is made from the run directories, which its commands name."""
    expected = (copy / "results.json").read_bytes().replace(bytes(tiny_study), bytes(copy))
    for damage in (b"{", expected.replace(b"9", b"8")):
        (copy / "results.json").write_bytes(damage)
        write_report(copy)
        assert (copy / "results.json").read_bytes() == expected
