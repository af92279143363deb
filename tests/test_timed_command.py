"""`benchmarks/timed_command.py`: when a command printed its lines, and its longest silence."""

import os
import sys

import pytest

from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
from timed_command import TimedCommand, run_timed


@pytest.mark.parametrize(
    ("lines", "time_s", "expected"),
    [
        (((1.0, "a"), (4.0, "b")), 5.0, (3.0, "a")),
        (((2.0, "a"), (3.0, "b")), 4.0, (2.0, "")),  # until the first line
        (((1.0, "a"), (2.0, "b")), 9.0, (7.0, "b")),  # until the end
        ((), 3.0, (3.0, "")),
    ],
)
def test_longest_silence(lines, time_s, expected):
    assert TimedCommand(lines, time_s, 0.0, 0).longest_silence() == expected


def test_lines_have_the_time_at_which_they_were_printed(tmp_path):
    code = "import sys, time; print('a', flush=True); time.sleep(0.3); print('é', file=sys.stderr); sys.exit(3)"
    done = run_timed([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONIOENCODING": "utf-8"})
    assert [line for _, line in done.lines] == ["a", "é"]
    assert done.lines[1][0] - done.lines[0][0] >= 0.25
    assert done.time_s >= done.lines[1][0]
    assert (done.status, done.find("a"), done.find("b")) == (3, done.lines[0], None)
    assert done.peak_mib > 1  # at least that of this process, from which it is forked


def test_a_command_is_killed_at_the_limit(tmp_path):
    done = run_timed([sys.executable, "-c", "import time; time.sleep(60)"], cwd=tmp_path, env=os.environ, limit_s=0.2)
    assert done.status == -9
    assert done.time_s < 30
