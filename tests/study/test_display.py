import io
from pathlib import Path

import pytest
from rich.console import Console

from resnetlab.config import RunConfig
from resnetlab.models.zoo import model_config
from resnetlab.study.display import StudyDisplay, time_text
from resnetlab.study.grid import StudyPlan
from resnetlab.study.local_pool import RunEnded, RunProgress, RunStarted, RunTask


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "?"), (0.4, "0 s"), (59, "59 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_time_text(seconds, text):
    assert time_text(seconds) == text


@pytest.fixture
def job(tiny_study) -> RunTask:
    return RunTask(RunConfig(model_config("plain8")), tiny_study / "runs" / "digits-plain-8-seed0")


def test_plain_lines_where_there_is_no_terminal(job):
    out = io.StringIO()
    with StudyDisplay(Console(file=out, width=80)) as display:
        for event in (StudyPlan([job], 3), RunStarted(job), RunProgress(job, 5, 10, 44.0), RunEnded(job, None)):
            display.see(event)
    lines = out.getvalue().splitlines()
    assert lines[0] == "3 finished runs are there already and are reused"
    assert lines[1] == "1 runs to make; loading PyTorch takes a few seconds"
    assert lines[2].startswith("[1/1] plain-8 seed 0")
    assert lines[2].endswith("0 s left")
    assert "\x1b" not in out.getvalue()


def test_a_live_table_in_a_terminal(job):
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True)
    with StudyDisplay(console) as display:
        for event in (StudyPlan([job, job], 0), RunStarted(job), RunProgress(job, 5, 10, 44.0)):
            display.see(event)
        assert display.time_left_s() is not None
        assert "step 5/10" in out.getvalue()
        assert "train  44.0 %" in out.getvalue()
        assert "0 of 2 runs" in out.getvalue()
        display.see(RunEnded(job, "killed"))
    assert "failed, killed" in out.getvalue()


def test_time_left_follows_the_work_done(job):
    display = StudyDisplay(Console(file=io.StringIO()))
    other = RunTask(RunConfig(model_config("plain20")), Path("none"))
    display.see(StudyPlan([job, other], 0))
    assert display.time_left_s() is None
    display.see(RunStarted(other))
    display.see(RunProgress(other, 1, 2, 50.0))  # 10 of 28 parts of the work
    display._start -= 10  # as if ten seconds had gone
    assert display.time_left_s() == pytest.approx(18, rel=0.05)
