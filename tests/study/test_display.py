"""Progress display of a study."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from resnetlab.config import RunConfig
from resnetlab.models.zoo import model_config
from resnetlab.study.display import StudyDisplay, time_text
from resnetlab.study.executors.local_pool import RunEnded, RunProgress, RunStarted, RunTask
from resnetlab.study.grid import StudyPlan


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "?"), (0.4, "0 s"), (59, "59 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_time_text(seconds, text):
    assert time_text(seconds) == text


@pytest.fixture
def task(tiny_study) -> RunTask:
    return RunTask(RunConfig(model_config("plain8")), tiny_study / "runs" / "digits-plain-8-seed0")


def test_plain_lines_without_a_terminal(task):
    out = io.StringIO()
    with StudyDisplay(Console(file=out, width=80)) as display:
        for event in (StudyPlan([task], 3), RunStarted(task), RunProgress(task, 5, 10, 44.0), RunEnded(task, None)):
            display.update(event)
    lines = out.getvalue().splitlines()
    assert lines[0] == "3 finished runs are reused"
    assert lines[1] == "1 runs to make; loading PyTorch takes a few seconds"
    assert lines[2].startswith("[1/1] plain-8 seed 0")
    assert lines[2].endswith("0 s left")
    assert "\x1b" not in out.getvalue()


def test_live_table_in_a_terminal(task):
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True)
    with StudyDisplay(console) as display:
        for event in (StudyPlan([task, task], 0), RunStarted(task), RunProgress(task, 5, 10, 44.0)):
            display.update(event)
        assert display.time_left_s() is not None
        assert "step 5/10" in out.getvalue()
        assert "batch  44.0 %" in out.getvalue()
        assert "0 of 2 runs" in out.getvalue()
        display.update(RunEnded(task, "killed"))
    assert "failed, killed" in out.getvalue()


def test_time_left_follows_the_finished_work(task):
    display = StudyDisplay(Console(file=io.StringIO()))
    other = RunTask(RunConfig(model_config("plain20")), Path("none"))
    display.update(StudyPlan([task, other], 0))
    assert display.time_left_s() is None
    display.update(RunStarted(other))
    display.update(RunProgress(other, 1, 2, 50.0))  # 10 of 28 units of cost
    display._start -= 10  # as if ten seconds had passed
    assert display.time_left_s() == pytest.approx(18, rel=0.05)
