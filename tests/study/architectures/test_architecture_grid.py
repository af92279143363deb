"""The preset `everywhere`: its runs, the options it takes, a study with its report, and what it continues."""

import csv
import dataclasses
import json
import shlex
import shutil
import subprocess
import sys

import pytest

import resnetlab
from resnetlab.architecture_config import ARCHITECTURES
from resnetlab.cli.main import main, parse
from resnetlab.cli.study import Options
from resnetlab.cli.study_architectures import build_architecture_grid
from resnetlab.config import ConfigError, DataConfig, RunConfig
from resnetlab.study.architectures import architecture_grid
from resnetlab.study.architectures.architecture_grid import ARCHITECTURE_SETTINGS, ArchitectureGrid
from resnetlab.study.arms import arm_network
from resnetlab.study.grid import run_name, run_study
from resnetlab.study.preset_grid import default_folder
from resnetlab.study.reports.architecture_report import ArchitectureReport, write_architecture_report
from resnetlab.study.reports.report import write_report
from resnetlab.study.results import read_runs
from resnetlab.training.run_files.record import read_record

COMMAND = ("study", "--preset", "everywhere", "--steps", "3", "--jobs", "2")


def grid(**options):
    return build_architecture_grid(Options(preset="everywhere", **options))


@pytest.fixture(scope="module")
def only_mlp():
    """A preset of one architecture: the processes of its runs read no settings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "80")
        patch.setenv("NO_COLOR", "1")
        for name in set(ARCHITECTURE_SETTINGS) - {"mlp"}:
            patch.delitem(architecture_grid.ARCHITECTURE_SETTINGS, name)
        yield


@pytest.fixture(scope="module")
def study(only_mlp, tmp_path_factory):
    out = tmp_path_factory.mktemp("everywhere") / "study"
    assert main([*COMMAND, "--seeds", "2", "--out", str(out)]) == 0
    return out


def test_every_architecture_has_both_arms_at_both_depths_with_every_seed():
    runs = grid().runs()
    assert len(runs) == len({run_name(run) for run in runs}) == 4 * 2 * 2 * 3
    assert {run.architecture.name for run in runs if run.architecture} == set(ARCHITECTURES)
    assert [run.depth for run in runs] == sorted((run.depth for run in runs), reverse=True)
    assert {run.data.name for run in runs} == {"digits"}
    assert "digits-transformer-residual-50-seed2" in {run_name(run) for run in runs}
    for name in ARCHITECTURES:  # the arms differ in nothing but the addition
        assert (
            len({(run.recipe, run.precision) for run in runs if run.architecture and run.architecture.name == name})
            == 1
        )


def test_options_change_seeds_and_length():
    runs = grid(seeds=1, epochs=1).runs()
    assert (len(runs), {run.recipe.epochs for run in runs}) == (16, {1})
    assert {run.recipe.steps for run in grid(steps=5).runs()} == {5}
    assert str(default_folder([DataConfig("digits")], "everywhere")) == "studies/digits-everywhere"


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"data": ("cifar10",)}, "data"),
        ({"depths": (20,)}, "depths"),
        ({"arms": ("plain",)}, "arms"),
        ({"recipe": "fast"}, "recipe"),
        ({"set": ("lr=1",)}, "set"),
        ({"lr": 0.1}, "lr"),
        ({"norm": "none"}, "norm"),
        ({"train_images": (50,)}, "train-images"),
        ({"no_identity_init": True}, "no-identity-init"),
    ],
)
def test_other_options_are_refused(options, name):
    with pytest.raises(ConfigError, match=f"^--{name} does not apply to preset everywhere, .*--epochs"):
        grid(**options)


@pytest.mark.parametrize(("options", "message"), [({"seeds": 0}, "at least 1, not 0"), ({"steps": 0}, "steps")])
def test_invalid_values(options, message):
    with pytest.raises(ConfigError, match=message):
        grid(**options)


def test_python_names_the_command(study):
    with pytest.raises(ConfigError, match=r"resnetlab study --preset everywhere$"):
        resnetlab.study(preset="everywhere")
    with pytest.raises(ConfigError, match=r"is of the preset everywhere; its results are in .*results\.json"):
        resnetlab.Study(study)


def test_the_report_has_the_numbers_of_the_records(study):
    results = json.loads((study / "results.json").read_text())
    assert len(results["runs"]) == 8
    for row in results["runs"]:
        record = read_record(study / row["directory"] / "record.jsonl")
        assert row["architecture"] == "mlp"
        assert (row["train_error_pct"], row["params"]) == (record[-1]["train_error_pct"], record[0]["params"])
    errors = {(r["arm"], r["depth"], r["seed"]): r["train_error_pct"] for r in results["runs"]}
    (effect,) = [entry for entry in results["architectures"] if entry["split"] == "train"]
    assert effect["addition"]["points"] == {
        str(seed): pytest.approx(errors["residual", 32, seed] - errors["plain", 32, seed]) for seed in (0, 1)
    }
    with (study / "comparisons.csv").open() as file:
        assert [row["architecture"] for row in csv.DictReader(file)] == ["mlp"] * 6
    page = (study / "report.html").read_text()
    assert effect["sentence"] in page
    assert page.count("<img") == 1
    assert "<script" not in page
    assert {path.name for path in (study / "figures").iterdir()} == {
        "depth-mlp.png",
        "depth-mlp.svg",
        "depth-mlp-tall.svg",
    }
    assert "they have not learnt, so nothing follows about depth" in effect["sentence"]


def test_the_command_prints_each_architecture(study, only_mlp, capsys):
    assert main(["report", str(study)]) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert any(line.startswith("mlp-residual-32") and line.endswith(" 2") for line in lines)
    assert any(line.startswith("Deep MLP: ") for line in lines)
    assert "From 8 to 32 layers the training error changes by" in " ".join(lines)
    assert lines[-1] == f"report: {study / 'report.html'}"
    assert max(len(line) for line in lines if not line.startswith(("report: ", "  resnetlab "))) <= 80


def test_the_same_command_makes_the_missing_runs_only(study, only_mlp, tmp_path, capsys):
    copy = shutil.copytree(study, tmp_path / "study")
    gone = copy / "runs" / "digits-mlp-plain-8-seed1"
    weights = (gone / "weights.safetensors").read_bytes()
    shutil.rmtree(gone)
    before = {path: path.read_bytes() for path in copy.glob("runs/*/record.jsonl")}
    assert main([*COMMAND, "--seeds", "2", "--out", str(copy)]) == 0
    assert "7 finished runs are reused" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in before} == before
    assert (gone / "weights.safetensors").read_bytes() == weights


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset", "everywhere", "--steps", "4"], "steps: 3 -> 4"),
        (["--depths", "8", "--arms", "plain"], "other networks"),
    ],
)
def test_another_study_in_the_folder_is_refused(study, words, message, capsys):
    assert main(["study", *words, "--out", str(study)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_folder_with_both_kinds_is_refused(study, tmp_path):
    name = "digits-mlp-plain-8-seed0"
    shutil.copytree(study / "runs" / name, tmp_path / "runs" / name)
    resnet = RunConfig(model=arm_network("plain", 8), recipe=resnetlab.recipe("digits", steps=2), compile="off")
    resnetlab.fit(resnet, tmp_path / "runs" / "digits-plain-8-seed0")
    with pytest.raises(ConfigError, match=r"preset everywhere and of ResNets \(digits-plain-8-seed0\)"):
        write_report(tmp_path)
    with pytest.raises(ConfigError, match=r"other settings \(other networks\)"):
        list(run_study(ArchitectureGrid(length={"steps": 3}), tmp_path, num_workers=1))


def test_a_run_that_failed_is_named(study, only_mlp, tmp_path):
    for path in study.glob("runs/*seed0"):
        shutil.copytree(path, tmp_path / "runs" / path.name)
    broken = tmp_path / "runs" / "digits-mlp-plain-32-seed0" / "record.jsonl"
    broken.write_text("".join(line for line in broken.read_text().splitlines(keepends=True) if '"result"' not in line))
    results = write_architecture_report(tmp_path, read_runs(tmp_path))
    assert results["architectures"] == []
    page = (tmp_path / "report.html").read_text()
    assert "1 of 4 runs did not finish" in page
    assert "No comparison yet" in page


def test_the_report_needs_no_torch(study):
    code = (
        "import pathlib, sys, resnetlab.study.reports.report as report\n"
        f"report.write_report(pathlib.Path({str(study)!r}))\nprint(sorted({{'torch', 'sklearn'}} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_advised_command_continues_the_study(study, only_mlp, tmp_path):
    """One seed of 3 steps, whose shallow networks are made to have learnt: the command adds seeds of equal length."""
    for path in study.glob("runs/*seed0"):
        shutil.copytree(path, tmp_path / "runs" / path.name)
    runs = [dataclasses.replace(run, result={**run.result, "train_error_pct": 1.0}) for run in read_runs(tmp_path)]
    sentence, command = ArchitectureReport(tmp_path, runs).missing or ("", "")
    assert sentence.startswith("One seed")
    words = shlex.split(command)
    assert words == ["resnetlab", "study", *COMMAND[1:5], "--out", str(tmp_path), "--seeds", "3"]
    options = parse(Options, "study", words[2:])
    assert all(build_architecture_grid(options).expected(run) == run.config for run in runs)
