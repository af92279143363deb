"""The command that runs a module of the package in a new process."""

import subprocess
import sys

import pytest

from resnetlab.system.python_command import python_module

from conftest import ROOT


@pytest.fixture
def folder_with_a_module(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('the file in the folder was executed')\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_file_in_the_current_folder_is_not_executed(folder_with_a_module):
    usual = [sys.executable, "-m", "resnetlab", "models", "--paper", "--json"]
    assert "was executed" in subprocess.run(usual, capture_output=True, text=True, check=False, timeout=60).stderr
    done = subprocess.run(
        [*python_module("resnetlab"), "models", "--paper", "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_a_folder_that_this_process_looks_in_stays(folder_with_a_module, monkeypatch):
    assert python_module("resnetlab") == [sys.executable, "-P", "-m", "resnetlab"]
    monkeypatch.setattr(sys, "path", [str(folder_with_a_module), *sys.path])
    assert python_module("resnetlab") == [sys.executable, "-m", "resnetlab"]


def test_every_child_process_is_started_so():
    files = [path for path in (ROOT / "src").rglob("*.py") if "sys.executable" in path.read_text()]
    assert [path.name for path in files] == ["python_command.py"]
