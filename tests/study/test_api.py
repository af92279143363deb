"""Studies from Python: results to ask, one-line errors, and the user's own code in every run."""

import os
import pickle
import sys
from dataclasses import replace

import pytest
import torch
import tyro
from matplotlib.figure import Figure

import resnetlab
from resnetlab.cli.study import Options as StudyOptions
from resnetlab.cli.study import build_grid
from resnetlab.config import BLOCK_PROPERTIES, ConfigError
from resnetlab.extension import OPTIMIZERS
from resnetlab.models.block_registry import BLOCKS
from resnetlab.models.blocks import BasicBlock
from resnetlab.study import api
from resnetlab.study.api import study
from resnetlab.study.executors import own_code
from resnetlab.study.executors.local_pool import RunEnded, RunStarted
from resnetlab.study.presets import get_preset
from resnetlab.study.results import read_run, read_runs
from resnetlab.study.study_results import Study


class OwnBlock(BasicBlock):
    """A block that other processes can import from this file."""


def own_optimizer(groups, recipe):
    return OPTIMIZERS["sgd"](groups, recipe)


@pytest.fixture
def registered(monkeypatch):
    """Remove new names from the registries, and do not draw the report's figures."""
    monkeypatch.setattr("resnetlab.study.reports.report.draw_figures", lambda runs, out: [])
    before = [(registry, set(registry)) for registry in (BLOCKS, BLOCK_PROPERTIES, OPTIMIZERS._entries)]
    yield
    for registry, names in before:
        for name in set(registry) - names:
            del registry[name]


@pytest.fixture(scope="module")
def tiny(tiny_study):
    return Study(tiny_study)


def test_the_package_is_the_function_too():
    import resnetlab.study.grid  # sets the attribute to the package

    assert callable(resnetlab.study)
    with pytest.raises(ConfigError, match="arms must be a list such as"):
        resnetlab.study("plain")


def test_a_comparison_has_the_direction_that_was_asked(tiny):
    found = tiny.compare("plain", "residual")
    back = tiny.compare("residual", "plain")
    assert (found.first, found.second, found.setting.depth, found.setting.split) == ("plain", "residual", 14, "test")
    assert back.points == {seed: -point for seed, point in found.points.items()}
    assert (back.mean, back.p) == (-found.mean, found.p)
    assert back.interval == pytest.approx(tuple(-end for end in reversed(found.interval)))
    errors = {
        (run.arm, run.seed): run.result["test_error_pct"]
        for run in tiny.runs
        if (run.depth, run.is_from_file) == (14, False)
    }
    assert found.points == {seed: errors["residual", seed] - errors["plain", seed] for seed in (0, 1)}
    assert tiny.compare("plain", "residual", depth=8, split="train").setting.depth == 8


def test_a_comparison_that_does_not_exist_names_those_that_do(tiny):
    with pytest.raises(ConfigError, match="no comparison of plain and mine; this study has: plain and residual at 8"):
        tiny.compare("plain", "mine")
    with pytest.raises(ConfigError, match="no comparison of plain and residual at 20 layers on split train"):
        tiny.compare("plain", "residual", depth=20, split="train")


def test_short_repr_and_rich_repr(tiny, tiny_study):
    assert repr(tiny) == f"Study({str(tiny_study)!r}: plain, residual; 8, 14 layers; 2 seeds)"
    page = tiny._repr_html_()
    assert page.count("<tr>") == 1 + len(tiny.table)
    assert "residual-14" in page
    assert "Holm" in page


def test_arms_without_an_ended_run_are_left_out(tiny_study):
    study = Study(tiny_study)
    study.runs = [replace(run, status="unfinished", result={}) if run.arm == "plain" else run for run in study.runs]
    assert study.arms == ["residual"]
    study = Study(tiny_study)
    study.runs = [replace(run, status="failed", result={}) for run in study.runs]
    assert study.arms == []
    assert repr(study).endswith("no run has ended; 8, 14 layers; 2 seeds; 10 of 10 runs did not finish)")


def test_names_are_escaped_in_the_rich_repr(tiny, monkeypatch):
    (row, *_) = tiny.table
    monkeypatch.setattr(tiny._report, "rows", [row.__class__(**{**row.__dict__, "data": "<script>"})])
    assert "<script>" not in tiny._repr_html_()
    assert "&lt;script&gt;" in tiny._repr_html_()


def test_plot_shows_each_arm_and_each_difference(tiny):
    figure = tiny.plot()
    assert isinstance(figure, Figure)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[::2] == ["digits, 8 layers", "digits, 14 layers"]
    labels = [[text.get_text() for text in axes.get_yticklabels()] for axes in figure.axes[:2]]
    assert labels[0] == ["plain", "residual"]
    assert labels[1][0].startswith("residual − plain: ")
    with pytest.raises(ConfigError, match="no run has an error on split extra; measured: train, val, test"):
        tiny.plot("extra")


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("plain",), {}, "arms must be a list such as \\['plain', 'residual'\\], not 'plain'"),
        ((["plain"], 20), {}, "depths must be a list such as \\[20, 56\\], not 20"),
        ((["plain"], ["20"]), {}, "depths must be a list"),
        ((["plain"], []), {}, "no depth given; name at least one with --depths"),
        (([], [20]), {}, "no arm given; name at least one with --arms"),
        ((["plane"], [20]), {}, "arm 'plane' is unknown"),
        ((["plain"], [20]), {"recipe": 3}, "recipe must be a Recipe or a name such as 'digits', not 3"),
        ((["plain"], [20]), {"data": 3}, "data must be a list such as 'digits', not 3"),
        ((["plain"], [20]), {"jobs": 0}, "jobs must be at least 1, not 0"),
        ((["plain"], [20]), {"seeds": 0}, "at least 1, not 0"),
    ],
)
def test_wrong_calls_are_one_line(arguments, options, message, tmp_path):
    with pytest.raises(ConfigError, match=message) as raised:
        study(*arguments, out=tmp_path / "s", **options)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"arms": ["plain", "residual"]}, ("--arms", "plain", "residual")),
        ({"identity_init": False}, ("--no-identity-init",)),
        ({"preset": "vanishing"}, ("--preset", "vanishing")),
    ],
)
def test_the_runs_are_those_of_the_command(options, words, monkeypatch, tmp_path):
    found = {}
    monkeypatch.setattr(api, "_execute", lambda grid, *_, **__: found.update(grid=grid) or {})
    with pytest.raises(RuntimeError, match="every run failed"):
        study(**options, out=tmp_path / "s")
    command = tyro.cli(StudyOptions, args=list(words))
    assert found["grid"] == build_grid(command, get_preset(command.preset))


def test_code_that_no_other_process_can_import_runs_here(registered, tmp_path):
    """As in a notebook: the runs take turns in this process."""

    class Local(BasicBlock):
        pass

    resnetlab.register_block("local", Local)
    assert not own_code.can_reach_workers(own_code.registered_code())
    result = study(["plain", "local"], [8], seeds=1, steps=2, out=tmp_path / "s", progress=False)
    assert {run.arm for run in result.runs} == {"plain", "local"}
    assert [run.status for run in result.runs] == ["done"] * 2
    assert set(result.compare("plain", "local").points) == {0}
    again = study(["plain", "local"], [8], seeds=1, steps=2, out=tmp_path / "s", progress=False)  # trains nothing
    assert [run.result["time_s"] for run in again.runs] == [run.result["time_s"] for run in result.runs]


def test_runs_in_this_process_have_one_thread_as_those_of_workers(tiny_study, tmp_path, monkeypatch):
    worker = next(run for run in read_runs(tiny_study) if not run.is_from_file)
    recipe = replace(worker.config.recipe, epochs=1, steps=1)
    task = own_code.RunTask(replace(worker.config, recipe=recipe), tmp_path / "run")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        errors = [event.error for event in own_code.run_here([task]) if isinstance(event, RunEnded)]
        assert (errors, torch.get_num_threads(), "OMP_NUM_THREADS" in os.environ) == ([None], 2, False)
    finally:
        torch.set_num_threads(before)
    made = read_run(task.out)
    assert made.start["machine"]["threads"] == worker.start["machine"]["threads"] == 1
    assert made.start["execution"] == worker.start["execution"]


def test_workers_register_what_this_process_has_registered(registered):
    resnetlab.register_block("own", OwnBlock)
    resnetlab.register_optimizer("own", own_optimizer)
    codes = own_code.registered_code()
    assert {(own.kind, own.name) for own in codes} >= {("block", "own"), ("optimizer", "own")}
    assert own_code.can_reach_workers([own for own in codes if own.name == "own"])
    shipped = pickle.loads(pickle.dumps([own for own in codes if own.name == "own"]))
    del BLOCKS["own"], OPTIMIZERS._entries["own"]
    own_code.register_code(shipped)
    own_code.register_code(shipped)  # a script that a worker imports has registered it already
    assert (BLOCKS["own"], OPTIMIZERS["own"]) == (OwnBlock, own_optimizer)


def test_a_class_of_a_notebook_cannot_reach_workers(registered, monkeypatch):
    monkeypatch.setattr(OwnBlock, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "OwnBlock", OwnBlock, raising=False)
    monkeypatch.setattr(sys.modules["__main__"], "__file__", __file__, raising=False)  # a process of xdist has none
    assert own_code.can_reach_workers([own_code.OwnCode("block", "own", OwnBlock)])
    monkeypatch.delattr(sys.modules["__main__"], "__file__")
    assert not own_code.can_reach_workers([own_code.OwnCode("block", "own", OwnBlock)])


def test_every_run_failed(monkeypatch, tmp_path, registered):

    def fail(tasks):
        for task in tasks:
            yield RunStarted(task)
            yield RunEnded(task, "killed by signal 9")

    monkeypatch.setattr(api, "_executor", lambda num_workers: fail)
    with pytest.raises(RuntimeError, match="every run failed: killed by signal 9"):
        study(["plain"], [8], seeds=1, out=tmp_path / "s", progress=False)
