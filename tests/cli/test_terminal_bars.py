"""Bars on a terminal: the control sequences of rich reach it, alone and inside other bars; those of names do not."""

import contextlib
import os
import pty
import sys

import pytest

from resnetlab.cli.console import open_console
from resnetlab.cli.evaluate_progress import ProgressBar
from resnetlab.cli.export import _progress_bar
from resnetlab.cli.lr_find import _SweepProgress
from resnetlab.cli.progress import TrainDisplay
from resnetlab.cli.terminal import protected
from resnetlab.study.display import StudyDisplay
from resnetlab.system.download_progress import DownloadProgress
from resnetlab.training.metrics import Progress

STEP = Progress(
    epoch=1, step=3, total_steps=9, num_steps=3, loss=1.0, train_error_pct=34.2, lr=0.1, images_per_s=1050.0
)


def download(name="weights.pth"):
    with DownloadProgress(f"{name} from https://example.org") as progress:
        progress(2**20, 3 * 2**20)


def evaluation():
    with ProgressBar(enabled=True) as bar:
        bar.update("opening", 1, 2)


def download_inside_an_evaluation():
    with ProgressBar(enabled=True):
        download()


def table_inside_an_evaluation():
    with ProgressBar(enabled=True):
        open_console(highlight=False).print("error", style="bold red")


def export():
    with _progress_bar() as on_progress:
        on_progress("calibrating", 1, 2)


def learning_rates():
    with _SweepProgress(open_console(stderr=True), 10) as progress:
        progress.update(1, 0.1, 2.0)


def training():
    with TrainDisplay(open_console(stderr=True)) as display:
        display.update(STEP)
        print("another line", file=sys.stderr)


def study():
    with StudyDisplay(open_console()):
        print("another line")


def chunks(screen):
    """Yield what a closed terminal was sent; its end is an error on Linux."""
    with contextlib.suppress(OSError):
        while chunk := screen.read(4096):
            yield chunk


@pytest.fixture
def terminal_text(monkeypatch):
    """Return a function that calls another one on a terminal, in a command, and returns what the terminal gets."""
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)

    def text_of(function, *arguments):
        reader, writer = pty.openpty()
        with os.fdopen(writer, "w", encoding="utf-8") as terminal:
            monkeypatch.setattr(sys, "stdout", terminal)
            monkeypatch.setattr(sys, "stderr", terminal)
            with protected():
                function(*arguments)
            monkeypatch.undo()
        with os.fdopen(reader, "rb", buffering=0) as screen:
            return b"".join(chunks(screen)).decode()

    return text_of


@pytest.mark.parametrize(
    "function",
    [
        download,
        evaluation,
        download_inside_an_evaluation,
        table_inside_an_evaluation,
        export,
        learning_rates,
        training,
        study,
    ],
)
def test_control_sequences_of_a_bar_reach_the_terminal(function, terminal_text):
    text = terminal_text(function)
    assert "\x1b[" in text
    assert r"\u001b" not in text


def test_the_bar_of_a_download_has_the_unit_of_its_line(terminal_text):
    text = terminal_text(download)
    assert "(3.0 MiB)" in text
    assert "1.0 of 3.0 MiB" in text
    assert "MB" not in text


def test_control_sequences_of_a_downloaded_name_do_not(terminal_text):
    text = terminal_text(download, "\x1b]0;owned\x07.pth")
    assert r"downloading \u001b]0;owned\u0007.pth" in text
    assert "\x1b]0" not in text
