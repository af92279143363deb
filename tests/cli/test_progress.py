"""The progress display: plain lines, the live line, and the time left."""

import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from resnetlab.cli.progress import StepRate, TrainDisplay
from resnetlab.cli.train_output import print_result
from resnetlab.training.metrics import Progress


def progress(step, total_steps=64_000, train_error_pct=34.2, images_per_s=1050.0):
    return Progress(
        epoch=1,
        step=step,
        total_steps=total_steps,
        num_steps=27,
        loss=1.0,
        train_error_pct=train_error_pct,
        lr=0.1,
        images_per_s=images_per_s,
    )


def describe(display, lines):
    """Print a trainer's configuration on a display."""
    display.on_start(SimpleNamespace(describe=lambda: lines))


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def plain(clock):
    out = io.StringIO()
    return TrainDisplay(Console(file=out, width=80, force_terminal=False), clock), out


def in_terminal(clock, width=80):
    out = io.StringIO()
    return TrainDisplay(Console(file=out, width=width, force_terminal=True), clock), out


@pytest.mark.parametrize(
    ("expected_s", "sizes", "line"),
    [
        (2.5, (900, 50, 50), "measuring the errors of epoch 7 on train, val and test …\n"),
        (None, (900, 50, 0), "measuring the errors of epoch 7 on train and val …\n"),
        (1.5, (900, 50, 50), ""),
    ],
)
def test_a_long_evaluation_at_the_end_is_announced(clock, expected_s, sizes, line):
    display, out = plain(clock)
    splits = {name: range(size) for name, size in zip(("train", "val", "test"), sizes, strict=True)}
    trainer: Any = SimpleNamespace(data=SimpleNamespace(splits=splits))
    display.on_last_evaluation(trainer, 7, expected_s)
    assert out.getvalue() == line
    quiet = TrainDisplay(display.console, clock, announces_evaluation=False)  # train --json
    quiet.on_last_evaluation(trainer, 7, expected_s)
    assert out.getvalue() == line


def line_widths(output):
    """Return the widths of all lines sent to a terminal, without escape codes."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output)
    return [Text(line).cell_len for line in re.split(r"[\r\n]+", text)]


def test_plain_lines_are_printed_every_10_s(clock):
    display, out = plain(clock)
    with display:
        for step in range(1000, 2001, 100):  # a step takes 0.01 s
            display.update(progress(step))
            clock.now += 1.0
        display.update(progress(64_000))
    lines = out.getvalue().splitlines()
    assert lines == [
        "step 1,000/64,000  batch error 34.2 %  1,050 images/s",
        "step 2,000/64,000  batch error 34.2 %  1,050 images/s  10 min 20 s left",
        "step 64,000/64,000  batch error 34.2 %  1,050 images/s",
    ]


def test_time_left_follows_the_recent_rate_of_a_resumed_run(clock):
    rate = StepRate(clock)
    assert rate.time_left_s(64_000) is None
    rate.update(60_000)
    assert rate.time_left_s(64_000) is None
    for step in range(60_010, 61_001, 10):
        clock.now += 1.0
        rate.update(step)
    assert rate.time_left_s(64_000) == pytest.approx(300, rel=0.001)  # 3,000 steps at 10 a second
    for step in range(61_001, 62_001):  # other load on the machine: 1 step a second
        clock.now += 1.0
        rate.update(step)
    assert rate.time_left_s(64_000) == pytest.approx(2000, rel=0.01)


def test_time_left_includes_validation(clock):
    rate = StepRate(clock)
    for epoch in range(30):
        for point in range(10):
            clock.now += 1.0
            rate.update(epoch * 10 + point)
        clock.now += 10.0
    assert rate.time_left_s(300 + 100) == pytest.approx(200, rel=0.15)


def test_epochs_warnings_and_configuration_are_printed(clock):
    display, out = plain(clock)
    with display:
        describe(display, ["model   resnet56 [bold], 855,770 parameters"])
        display.on_epoch(None, {"epoch": 3, "train_error_pct": 34.21, "val_error_pct": 36.0, "lr": 0.1, "time_s": 61.0})
        display.on_epoch(
            None, {"epoch": 4, "train_error_pct": 34.21, "val_error_pct": None, "lr": 0.00123456, "time_s": 1}
        )
        display.on_warning(None, "the disk is full")
    assert out.getvalue().splitlines() == [
        "model   resnet56 [bold], 855,770 parameters",
        "epoch   3  train error  34.2 %  val error  36.0 %  lr 0.1  1 min 1 s",
        "epoch   4  train error  34.2 %  lr 0.001235  1 s",
        "warning: the disk is full",
    ]


def test_a_terminal_has_a_live_line(clock):
    display, out = in_terminal(clock)
    with display:
        for step in (1000, 1100):
            display.update(progress(step))
            clock.now += 1.0
        assert "1,100/64,000  batch error 34.2 %  1,050 images/s  10 min 29 s left" in out.getvalue()
        assert "━" in out.getvalue()
        display.on_epoch(None, {"epoch": 1, "train_error_pct": 34.2, "lr": 0.1, "time_s": 3})
    assert "epoch   1" in out.getvalue()
    assert "\x1b[?25h" in out.getvalue()  # shows the cursor again


@pytest.mark.parametrize("width", [80, 50, 200])
def test_lines_fit_the_width(clock, width):
    for display, out in (plain(clock), in_terminal(clock, width)):
        with display:
            describe(display, ["a configuration " * 12, "/path" * 40])
            for step in (1, 2, 599_999):
                display.update(progress(step, 600_000, train_error_pct=100.0, images_per_s=123_456.0))
                clock.now += 100_000.0
            display.on_epoch(
                None, {"epoch": 300, "train_error_pct": 100.0, "val_error_pct": 100.0, "lr": 1e-5, "time_s": 86399}
            )
            display.on_warning(None, "a long warning " * 8)
        assert max(line_widths(out.getvalue())) <= min(80, display.console.width)


def test_the_cursor_is_restored_after_an_error(clock):
    display, out = in_terminal(clock)

    def interrupted():
        with display:
            display.update(progress(10))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "\x1b[?25h" in out.getvalue()


@pytest.mark.parametrize("time_s", [5.0, 65.0, 3599.0, 86_399.0])
def test_the_result_fits_80_columns_and_breaks_no_number(time_s):
    out = io.StringIO()
    result = {f"{name}_error_pct": 100.0 for name in ("train", "val", "test")}
    print_result(
        result | {"time_s": time_s, "images_per_s": 12_345.0}, Path("run"), Console(file=out, width=80), batch_size=100
    )
    *summary, model_file = out.getvalue().splitlines()
    assert "; ".join(summary).startswith("errors: train 100.00 %, val 100.00 %, test 100.00 %; ")
    assert summary[-1].endswith(" images/s")
    assert len(summary) == 1 + (time_s >= 600)
    assert max(map(len, summary)) <= 80
    assert model_file == "model file: run/model.safetensors"


def test_names_in_lines_cannot_drive_the_terminal(clock):
    display, out = plain(clock)
    with display:
        describe(display, ["data     a\x1b[2Jb\nc"])
        display.on_warning(None, "class \x9b\x1b]0;x\x07 is empty")
    assert not set("\x1b\x9b\x07") & set(out.getvalue())
    assert len(out.getvalue().splitlines()) == 2
