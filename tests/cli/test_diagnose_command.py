"""`resnetlab diagnose`: output for run directories and model files, and errors."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.records import rewrite_without_checksums
from resnetlab.cli.main import main
from resnetlab.config import ModelConfig, Preprocessing, RunConfig
from resnetlab.data.loader import sample_images
from resnetlab.data.open_dataset import open_data
from resnetlab.models.model_file import ModelCard, load_model, save_model
from resnetlab.models.zoo import build_model
from resnetlab.study.statistics.seed_stats import two_figures
from resnetlab.training.fit import fit
from resnetlab.training.layer_stats import measure_layer_stats
from resnetlab.training.recipes import recipe
from resnetlab.training.run_files.record import Record, read_record
from resnetlab.training.train_step import DivergedError

MODEL = ModelConfig("tiny", (1, 2), (8, 16), stem="cifar", shortcut="project", num_classes=10)
CONFIG = RunConfig(MODEL, recipe=recipe("digits", steps=60, batch_size=64, lr=0.1), seed=1, layer_stats_steps=20)
LAYERS = [
    "conv1",
    "layer1.0.conv1",
    "layer1.0.conv2",
    "layer2.0.conv1",
    "layer2.0.conv2",
    "layer2.0.downsample.0",
    "layer2.1.conv1",
    "layer2.1.conv2",
]


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the directory of a run that has learnt; read-only."""
    out = tmp_path_factory.mktemp("runs") / "trained"
    fit(CONFIG, out)
    return out


@pytest.fixture
def run(trained, tmp_path):
    """Return a copy of the trained run."""
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def undrawn(monkeypatch):
    """Name the figures without making them, which takes a second."""

    def draw_nothing(run, folder):
        return [folder / f"{name}.png" for name in ("gradients", "responses")]

    monkeypatch.setattr("resnetlab.study.figures.all_figures.draw_layer_stats", draw_nothing)


def diagnose(capsys, *arguments, status=0):
    assert main(["diagnose", *map(str, arguments)]) == status
    captured = capsys.readouterr()
    assert (captured.err == "") == (status == 0)
    return captured.out or captured.err


def without_layer_stats(lines):
    return [line for line in lines if line["kind"] != "signal"]


def recorded_stats(out):
    return [line for line in read_record(out / "record.jsonl") if line["kind"] == "signal"]


def rows(output, first):
    """Return the cells of every row whose first cell is `first`, in all tables."""
    return [line.split() for line in output.splitlines() if line.split()[:1] == [first]]


def is_narrow(output, *paths):
    for path in paths:
        output = output.replace(str(path), "")
    return max(map(len, output.splitlines())) <= 80


def test_run_directory(run, capsys):
    output = diagnose(capsys, run)
    result = read_record(run / "record.jsonl")[-1]
    first, last = recorded_stats(run)[0], recorded_stats(run)[-1]
    assert output.startswith(f"B-8, done: train error {result['train_error_pct']:.2f} %, val error ")
    assert f"test error {result['test_error_pct']:.2f} %\n" in output
    assert f"step 1, loss {two_figures(first['loss'])}\n" in output
    assert f"step 60, loss {two_figures(last['loss'])}\n" in output
    stems = rows(output, "conv1")
    for row, stats in zip(stems, (first, last), strict=True):
        order = ("grad_norm", "grad_to_weight", "activation_var", "dead_relu_pct", "response_std")
        assert row[1:] == [*(two_figures(stats[name][0]) for name in order), "–"]
    norms, ratios = last["grad_norm"][3:], last["residual_ratio"][1:]
    lowest, highest = rows(output, "layer2")[1], rows(output, "highest")[-1]
    assert (lowest[1], highest[0]) == ("lowest", "highest")
    assert (lowest[2], highest[1]) == (two_figures(min(norms)), two_figures(max(norms)))
    assert (lowest[7], highest[6]) == (two_figures(min(ratios)), two_figures(max(ratios)))
    assert "no issue found\n" in output
    assert "one run gives no verdict; compare seeds and depths with: resnetlab study\n" in output
    for name in ("gradients", "responses"):
        assert f"figure: {run / 'diagnosis' / name}.png\n" in output
        with Image.open(run / "diagnosis" / f"{name}.png") as image:
            assert min(image.size) > 300
    assert is_narrow(output, run)


def test_every_layer(run, capsys, undrawn):
    output = diagnose(capsys, run, "--layers")
    found = re.findall(r"^(conv1|layer\S+\.\S+) ", output, flags=re.MULTILINE)
    assert found == LAYERS * 2
    assert rows(output, "layer2.0.downsample.0")[1][4] == "–"  # no ReLU follows it directly
    ratios = [row[6] for name in LAYERS for row in rows(output, name)[1:]]
    residual_ratios = iter(map(two_figures, recorded_stats(run)[-1]["residual_ratio"]))
    ends = ("layer1.0.conv2", "layer2.0.conv2", "layer2.1.conv2")
    assert ratios == [next(residual_ratios) if name in ends else "–" for name in LAYERS]
    assert is_narrow(output, run)


def test_json(run, capsys):
    output = json.loads(diagnose(capsys, run, "--json"))
    lines = [{key: value for key, value in line.items() if key != "kind"} for line in recorded_stats(run)]
    assert output["signals"] == lines
    assert [line["step"] for line in lines] == [1, 21, 41, 60]
    assert output["symptoms"] == []
    assert output["figures"] == [str(run / "diagnosis" / f"{name}.png") for name in ("gradients", "responses")]
    own = {"data": "digits", "arm": "B", "depth": 8, "seed": 1, "status": "done", "directory": str(run)}
    assert own.items() <= output["run"].items()
    assert output["run"]["train_error_pct"] == read_record(run / "record.jsonl")[-1]["train_error_pct"]


def test_model_file_is_measured_and_not_changed(run, capsys, undrawn):
    file = run / "model.safetensors"
    before = file.read_bytes()
    output = json.loads(diagnose(capsys, file, "--json"))
    assert file.read_bytes() == before
    model, card = load_model(file)
    data = open_data(CONFIG.data)
    (line,) = output["signals"]
    assert line == measure_layer_stats(model, *sample_images(data.train, card.preprocessing, 128))
    assert (line["step"], line["lr"], line["layers"]) == (0, 0, LAYERS)
    assert output["run"]["status"] == "measured"
    assert output["run"]["test_error_pct"] == card.error["test_error_pct"]
    assert output["figures"] == [str(run / "model-diagnosis" / f"{name}.png") for name in ("gradients", "responses")]
    few = json.loads(diagnose(capsys, file, "--json", "--batch-size", 50))["signals"][0]
    assert few["loss"] != line["loss"]
    text = diagnose(capsys, file)
    assert "B-8, measured: train error" in text
    assert f"measured, loss {two_figures(line['loss'])}\n" in text
    assert len(rows(text, "conv1")) == 1
    assert is_narrow(text, run)


def test_model_file_without_training_data(trained, tmp_path, capsys, undrawn):
    model, card = load_model(trained / "model.safetensors")
    bare = tmp_path / "bare.safetensors"
    save_model(bare, model, dataclasses.replace(card, provenance={}, error={}))
    assert "does not name its training data; name images with --data" in diagnose(capsys, bare, status=2)
    output = diagnose(capsys, bare, "--data", "digits")
    assert output.startswith("B-8, measured: no errors known\n")
    expected = measure_layer_stats(model, *sample_images(open_data(CONFIG.data).train, card.preprocessing, 128))
    assert f"measured, loss {two_figures(expected['loss'])}\n" in output


def test_run_is_measured_without_layer_stats_or_with_data(run, capsys, undrawn):
    named = json.loads(diagnose(capsys, run, "--data", "digits", "--json"))
    assert named["run"]["status"] == "measured"
    rewrite_without_checksums(run / "record.jsonl", without_layer_stats)
    unrecorded = json.loads(diagnose(capsys, run, "--json"))
    assert unrecorded["signals"] == named["signals"]
    assert unrecorded["figures"][0] == str(run / "diagnosis" / "gradients.png")


def test_output_folder(run, tmp_path, capsys):
    output = diagnose(capsys, run, "--out", tmp_path / "new" / "folder")
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == {"gradients.png", "responses.png"}
    assert f"figure: {tmp_path / 'new' / 'folder' / 'gradients.png'}\n" in output
    assert not (run / "diagnosis").exists()


@pytest.fixture(scope="module")
def diverged(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "diverged"
    wild = dataclasses.replace(MODEL, stage_blocks=(3, 3), shortcut="none", norm="none", init_scale=30.0)
    with pytest.raises(DivergedError):
        fit(dataclasses.replace(CONFIG, model=wild, layer_stats_steps=3), out)
    return out


def test_diverged_run(diverged, tmp_path, capsys):
    output = diagnose(capsys, diverged, "--out", tmp_path)
    assert output.startswith("plain-14, diverged: no errors known\n")
    assert ", loss not finite\n" in output
    assert rows(output, "layer2")[-1][1:4] == ["lowest", "–", "–"]
    assert "sign of diverged: the loss is nan at steps " in output
    assert "sign of exploding: at the first sample the gradient of the median layer is\n" in output
    assert [path.name for path in tmp_path.iterdir()] == ["gradients.png"]  # no response of the last sample is finite
    assert is_narrow(output, tmp_path)
    kinds = [issue["kind"] for issue in json.loads(diagnose(capsys, diverged, "--out", tmp_path, "--json"))["symptoms"]]
    assert kinds == ["diverged", "exploding"]


def test_errors_are_one_line_with_a_remedy(run, tmp_path, capsys):
    (tmp_path / "study" / "runs").mkdir(parents=True)
    (tmp_path / "nothing").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    two = shutil.copytree(run, tmp_path / "two")
    with Record(two / "record.jsonl", keep_bytes=0) as record:
        record.write("run")
        record.write("result", status="done")
    (two / "model.safetensors").unlink()
    shutil.rmtree(two / "checkpoint")
    damaged = shutil.copytree(run, tmp_path / "damaged")
    (damaged / "record.jsonl").write_text("{}\n")
    for number in range(40):
        path = tmp_path / "pets" / ("cat" if number % 2 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), number, dtype=np.uint8)).save(path)
    file = run / "model.safetensors"
    for arguments, message in [
        ([tmp_path / "study"], f"study is a study; name one of its runs in {tmp_path / 'study' / 'runs'}, or use: res"),
        ([tmp_path / "nothing"], "nothing: no run here (no config.json); name a run directory or a model file"),
        ([tmp_path / "nowhere"], "nowhere: no such model file"),
        ([tmp_path / "notes.txt"], "notes.txt: cannot be read as safetensors"),
        (
            [two],
            "two: its record has no layer statistics, and there is no model.safetensors to measure; train it first",
        ),
        ([damaged], "record.jsonl, line 1: not an object with a kind"),
        ([file, "--batch-size", 1], "batch-size must be at least 2, not 1"),
        (
            [file, "--data", tmp_path / "pets"],
            "classes differ: only pets has cat, dog; only model.safetensors has 0, 1",
        ),
        ([file, "--data", "digit"], "did you mean digits?"),
        (
            [run, "--batch-size", 64],
            "--batch-size requires --data, since the layer statistics of this run are recorded",
        ),
        (
            [run, "--color-profiles", "ignore", "--on-bad-image", "skip"],
            "--color-profiles, --on-bad-image require --data, since the layer statistics of this run are recorded; add",
        ),
        ([file, "--out", tmp_path / "notes.txt"], "notes.txt is a file; name a folder"),
        ([run, "--out", tmp_path / "notes.txt" / "x"], "notes.txt is a file, not a folder; name a path in a folder"),
        ([file, "--shattering", "--out", tmp_path / "notes.txt"], "notes.txt is a file; name a folder"),
        ([run, "--shattering", "--layers"], "--layers is for layer statistics, which --shattering replaces"),
    ]:
        output = diagnose(capsys, *arguments, status=2)
        assert message in output
        assert output.startswith("resnetlab: ")
        assert output.count("\n") == 1
    assert not (tmp_path / "study" / "diagnosis").exists()


def test_deepened_file_has_its_own_network(run, tmp_path, capsys, undrawn):
    """Its provenance is that of the shallow run; the label must be that of the deepened network."""
    deep = tmp_path / "deep.safetensors"
    assert main(["deepen", str(run / "model.safetensors"), "--blocks", "2", "3", "--out", str(deep)]) == 0
    capsys.readouterr()
    assert diagnose(capsys, deep).startswith("B-12, measured: ")


def test_loss_that_is_not_finite_is_null_in_json(run, tmp_path, capsys, undrawn):
    model, card = load_model(run / "model.safetensors")
    torch.nn.init.constant_(model.fc.bias, torch.inf)
    save_model(tmp_path / "broken.safetensors", model, card)
    output = diagnose(capsys, tmp_path / "broken.safetensors", "--json")
    assert "NaN" not in output
    assert json.loads(output)["signals"][0]["loss"] is None


def test_data_for_a_run_without_a_model_file(diverged, capsys):
    output = diagnose(capsys, diverged, "--data", "digits", status=2)
    assert "no model.safetensors" in output
    assert "its record has no layer statistics" not in output  # it has


def test_path_with_brackets_is_printed_literally(run, tmp_path, capsys, undrawn):
    assert str(tmp_path / "pets [old]") in diagnose(capsys, run, "--out", tmp_path / "pets [old]")


def test_image_files_are_rejected_by_a_network_of_other_channels(tmp_path, capsys):
    for number in range(40):
        path = tmp_path / "pets" / ("cat" if number % 2 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), number, dtype=np.uint8)).save(path)
    pair = dataclasses.replace(MODEL, in_channels=2, num_classes=2)
    card = ModelCard(pair, ("cat", "dog"), Preprocessing(8, (0.5,) * 2, (0.25,) * 2))
    save_model(tmp_path / "pair.safetensors", build_model(pair), card)
    output = diagnose(capsys, tmp_path / "pair.safetensors", "--data", tmp_path / "pets", status=2)
    assert "pets has 3-channel images, and tiny reads 2 channels" in output


def test_failed_run_has_an_issue(run, capsys, undrawn):
    failed = {"kind": "result", "status": "failed", "error": "no memory left", "time_s": 1.0}
    rewrite_without_checksums(run / "record.jsonl", lambda lines: [*lines[:-1], failed])
    output = diagnose(capsys, run)
    assert "no issue found" not in output
    assert "no memory left" in output


def test_numbers_are_not_truncated(run, tmp_path, capsys, undrawn):
    """Vanishing gradients have very different magnitudes within one stage."""
    card = load_model(run / "model.safetensors")[1]
    model = build_model(
        "plain56", norm="none", init_scale=0.8, generator=torch.Generator().manual_seed(0), in_channels=1
    )
    save_model(tmp_path / "plain.safetensors", model, dataclasses.replace(card, model=model.config))
    assert "…" not in diagnose(capsys, tmp_path / "plain.safetensors")


def test_a_changed_record_is_refused(run, capsys):
    path = run / "record.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    loss = lines[-1].index(b'"train_error_pct": ') + len(b'"train_error_pct": ')
    changed = lines[-1][:loss] + (b"9" if lines[-1][loss : loss + 1] != b"9" else b"8") + lines[-1][loss + 1 :]
    path.write_bytes(b"".join([*lines[:-1], changed]))
    output = diagnose(capsys, run, status=2)
    assert f"record.jsonl, line {len(lines)}: not as written (its checksum differs)" in output
    assert output.count("\n") == 1


def test_a_cut_record_is_named(run, capsys, undrawn):
    path = run / "record.jsonl"
    data = path.read_bytes()
    assert "note: " not in diagnose(capsys, run)
    last = data[:-1].rindex(b"\n") + 1
    path.write_bytes(data[: last + 20])
    output = diagnose(capsys, run)
    assert "unfinished" in output
    assert "note: record.jsonl is cut: it ends in an incomplete line of 20 bytes" in output
    assert is_narrow(output, run)
    path.write_bytes(data[:last])
    assert "note: record.jsonl is cut: the run wrote its model file, and the" in diagnose(capsys, run)
    (run / "model.safetensors").unlink()
    path.write_bytes(data[: data[: last - 1].rindex(b"\n") + 1])
    assert json.loads(diagnose(capsys, run, "--json"))["notes"] == [
        f"record.jsonl is cut: it has {path.stat().st_size:,} bytes, and the checkpoint expects {last:,}"
    ]


def test_a_record_of_an_older_version_has_no_checksums(run, capsys, undrawn):
    rewrite_without_checksums(run / "record.jsonl")
    assert "note: record.jsonl has no checksums" in diagnose(capsys, run)


def test_shattering(run, tmp_path, capsys):
    output = diagnose(capsys, run, "--shattering", "--batch-size", 32)
    assert output.startswith("tiny: correlation of the gradients at inputs 1 to 32 points apart\n")
    assert [line.split()[0] for line in output.splitlines() if "noise" in line][1:3] == ["white", "brown"]
    assert is_narrow(output, run)
    assert {path.name for path in (run / "diagnosis").iterdir()} == {"shattering.png", "shattering.svg"}
    file = run / "model.safetensors"
    values = json.loads(diagnose(capsys, file, "--shattering", "--batch-size", 32, "--out", tmp_path / "a", "--json"))
    assert values["network"] == "tiny"
    initial, plain = (row["values"][1] for row in values["autocorrelation"][1:3])
    assert f" {initial:.2f} " in next(line for line in output.splitlines() if line.startswith("initial weights"))
    assert plain < initial
    file.unlink()
    assert "no such model file; --shattering needs the weights" in diagnose(capsys, run, "--shattering", status=2)
