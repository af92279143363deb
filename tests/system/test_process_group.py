"""Rank and size from torchrun's environment variables, which may be missing or wrong."""

import pytest

from resnetlab.config import ConfigError
from resnetlab.system.process_group import ProcessGroup, local_world_size, process_group_from_env, restart_count

TORCHRUN_ENV = {"WORLD_SIZE": "3", "RANK": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in (*TORCHRUN_ENV, "LOCAL_WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)


def set_environment(monkeypatch, changes):
    for name, value in {**TORCHRUN_ENV, **changes}.items():
        if value is not None:
            monkeypatch.setenv(name, value)


def test_rank_and_size_come_from_torchrun(monkeypatch):
    assert process_group_from_env() == ProcessGroup(0, 1)
    set_environment(monkeypatch, {})
    assert process_group_from_env() == ProcessGroup(2, 3)


def test_a_rank_without_a_world_size_is_ignored(monkeypatch):
    """A cluster's scheduler may set RANK; a single process still prints and writes."""
    monkeypatch.setenv("RANK", "1")
    assert process_group_from_env().is_first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"WORLD_SIZE": "abc"},
            "WORLD_SIZE must be a whole number, at least 1, not 'abc'; start several processes with",
        ),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE must be a whole number, at least 1, not '0'"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE must be a whole number, at least 1, not ''"),
        ({"RANK": None}, "WORLD_SIZE is 3 and RANK is missing"),
        ({"RANK": "first"}, "RANK must be a whole number, at least 0, not 'first'"),
        ({"RANK": "3"}, "RANK is 3 and WORLD_SIZE 3: ranks go from 0 to 2"),
        ({"MASTER_ADDR": None}, "WORLD_SIZE is 3 and MASTER_ADDR is missing"),
        ({"MASTER_PORT": None}, "WORLD_SIZE is 3 and MASTER_PORT is missing"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT must be a whole number, at least 0, not 'http'"),
    ],
)
def test_incomplete_environments_are_refused(changes, message, monkeypatch):
    set_environment(monkeypatch, changes)
    with pytest.raises(ConfigError, match=message):
        process_group_from_env()


def test_counts(monkeypatch):
    assert (local_world_size(), restart_count()) == (1, 0)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    assert (local_world_size(), restart_count()) == (8, 2)
