"""Shared by several tests: the command line in a subprocess, one small study, and the preset studies."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Read when torch is loaded, here and in the processes of tests. Files run side by side, one per core; a second
    # thread would wait for a core at the end of every layer, and steps take several times as long.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from filelock import FileLock

from helpers.command_server import needs_new_interpreter, run_forked

torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]

TWO_ARMS = ("--arms", "plain", "residual")
"""The arms of a study without its control arm."""
TINY = ("--depths", "8", "14", *TWO_ARMS, "--seeds", "2", "--epochs", "1")


def resnetlab(
    *words: str | Path, cwd: Path | None = None, timeout: float = 200, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    full = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", **environment}
    if not needs_new_interpreter(full):
        return run_forked([*map(str, words)], cwd=cwd, environment=full, timeout=timeout)
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "resnetlab", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=full,
        timeout=timeout,
        check=False,
    )


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Restore the number of threads, which opening an engine sets: a child of `os.fork` hangs if it has several."""
    yield
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture
def without_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """A function that runs a command in this process, and returns its status, output and errors.

    A study makes no figures, which takes seconds, and the process that loads PyTorch for its runs serves all studies.
    """
    from resnetlab.cli.main import main

    monkeypatch.setattr("resnetlab.study.reports.report.draw_figures", lambda runs, out: [])
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*words: str | Path) -> tuple[int, str, str]:
        status = main([*map(str, words)])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def shared_folder(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder that the processes of pytest-xdist share; the first that asks for it has `make` fill it."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    out, done = root / "shared" / name, root / "shared" / f"{name}.done"
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out.with_suffix(".lock")):
        if not done.exists():
            make(out)
            done.touch()
    return out


@pytest.fixture(scope="session")
def tiny_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two depths, both arms and two seeds for one epoch on digits; tests must not change its folder."""

    def make(out: Path) -> None:
        done = resnetlab("study", *TINY, "--out", out)
        assert done.returncode == 0, done.stderr

    return shared_folder(tmp_path_factory, "tiny", make)


@pytest.fixture(scope="session")
def small_exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network of helpers/small_network.py as model.safetensors and in each format; tests must not change it."""

    def make(out: Path) -> None:
        from helpers.small_network import model_file
        from resnetlab.export.export import export
        from resnetlab.inference.formats.exported_file import SUFFIXES

        file = model_file(out / "model.safetensors")
        for suffix, kind in SUFFIXES.items():
            export(file, file.with_suffix(suffix), kind)

    return shared_folder(tmp_path_factory, "exports", make)


@pytest.fixture(scope="session")
def preset_study(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, dict[str, Any]]]:
    """Return a function that runs a preset study, or returns the earlier run: its folder and its JSON output."""

    @cache
    def study(name: str) -> tuple[Path, dict[str, Any]]:
        out = tmp_path_factory.mktemp(name)
        done = resnetlab("study", "--preset", name, "--out", out, "--json", timeout=1500)
        assert done.returncode == 0, done.stderr
        return out, json.loads(done.stdout)

    return study
