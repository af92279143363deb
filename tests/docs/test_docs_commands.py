"""Commands in docs/*.md: those in bash blocks run, those in console blocks have options that exist."""

import re
import shlex
import shutil
import sys

import pytest

from helpers.page_commands import (
    check_options,
    code_blocks,
    commands,
    make_workplace,
    our_words,
    run_command,
    run_python,
)
from resnetlab.cli.main import COMMANDS, main

from conftest import ROOT

sys.path.insert(0, str(ROOT / "docs" / "_ext"))
cli_reference = pytest.importorskip("cli_reference", reason="Sphinx is not installed")
command_options = cli_reference.command_options

PAGES = {path.stem: path.read_text() for path in sorted((ROOT / "docs").glob("*.md")) if path.stem != "log"}
CONSOLE = [(page, command) for page, text in PAGES.items() for command in commands(text, "console")]
BASH = [(page, command) for page, text in PAGES.items() for command in commands(text)]


@pytest.fixture(scope="module")
def workplaces(tmp_path_factory):
    """One folder per page, filled when the first command of the page asks for it.

    Several pages begin with the same training. It runs once; the other pages get a copy of the folder after it.
    """
    folders, after_first = {}, {}

    def run(page, command):
        if page in folders:
            run_command(command, folders[page], page=PAGES[page])
            return
        folders[page] = tmp_path_factory.mktemp(page)
        if command in after_first:
            check_options(command)
            shutil.copytree(after_first[command], folders[page], dirs_exist_ok=True)
            return
        make_workplace(folders[page])
        run_command(command, folders[page], page=PAGES[page])
        after_first[command] = shutil.copytree(folders[page], tmp_path_factory.mktemp("after") / page)

    return folders, run


@pytest.mark.parametrize(("page", "command"), [*CONSOLE, *BASH], ids=lambda value: value[:80])
def test_options_exist(page, command):
    if not command.startswith("curl "):
        check_options(command)


@pytest.mark.slow  # three minutes: each page trains a small network first
@pytest.mark.parametrize(("page", "command"), BASH, ids=lambda value: value[:80])
def test_command_runs(page, command, workplaces):
    _, run = workplaces
    run(page, command)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if code_blocks(text, "python")])
def test_python_runs(page, workplaces):
    """Each page runs its Python after its commands, in the same folder."""
    folders, _ = workplaces
    run_python(PAGES[page], folders[page])


def test_every_command_has_an_example():
    calls = [our_words(shlex.split(command)) for _, command in [*CONSOLE, *BASH]]
    assert {call[0] for call in calls if call} >= set(COMMANDS)


def test_options_in_running_text_exist():
    known = {option.name for command in COMMANDS for option in command_options(command)[1]}
    of_others = {"--max-restarts", "--nnodes", "--rdzv-id", "--debug", "--help", "--version", "--cache-dir"}
    for page, text in PAGES.items():
        named = set(re.findall(r"`(--[a-z][a-z0-9-]*)", text))
        assert named - known - of_others == set(), page


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_line_reference_lists_the_options_of_help(command, capsys):
    """The reference is generated from the dataclasses; tyro's own help must name the same options."""
    with pytest.raises(SystemExit):
        main([command, "--help"])
    help_text = capsys.readouterr().out
    _, options = command_options(command)
    named = {option.name for option in options if not option.positional}
    assert named == set(re.findall(r"^\W*(--[a-z0-9-]+)\b", help_text, re.MULTILINE)) - {"--help"}
    assert all(option.help for option in options)


def test_the_command_line_reference_has_the_groups_of_help():
    page = "\n".join(cli_reference.command_page("train"))
    own, *groups = page.split(".. rubric:: ")
    assert [group.partition("\n")[0] for group in groups] == [
        "Reading options",
        "Recipe options",
        "Execution options",
        "Run options",
    ]
    assert ".. option:: --minutes" in own
    assert ".. option:: --lr" in groups[1]
