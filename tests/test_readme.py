"""Every command and code block of the README runs, and every file that it names exists."""

import re

import pytest

from helpers.page_commands import commands, make_workplace, run_command, run_python

from conftest import ROOT

TEXT = (ROOT / "README.md").read_text()
MAX_LINES = 140


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with a user's images, which the commands share, in order."""
    return make_workplace(tmp_path_factory.mktemp("readme"))


def test_commands_are_found_in_blocks_and_tables():
    found = commands(TEXT)
    assert {"pip install resnetlab", "resnetlab study", "resnetlab data check photos"} <= set(found)
    table = {"study", "train", "inspect", "evaluate", "predict", "export", "serve", "plan"}
    assert table <= {command.split()[1] for command in found if command.startswith("resnetlab ")}
    assert any(command.startswith("torchrun ") for command in found)


def test_length():
    assert len(TEXT.splitlines()) <= MAX_LINES


@pytest.mark.slow  # about a minute of trainings
@pytest.mark.parametrize("command", commands(TEXT))
def test_command_runs(command, workplace):
    run_command(command, workplace, page=TEXT)


@pytest.mark.slow
def test_python_runs(workplace):
    run_python(TEXT, workplace)


def test_named_files_exist():
    names = re.findall(r"\]\(([^)#:]+)\)", TEXT) + re.findall(r'src="([^":]+)"', TEXT)
    names += re.findall(r"`((?:benchmarks|docs|examples)/[^`\s]+)`", TEXT)
    assert len(names) >= 10
    assert [name for name in names if not (ROOT / name).exists()] == []
