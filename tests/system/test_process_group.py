"""Which process of how many this is: from torchrun's variables, which may be missing or wrong."""

import pytest

from resnetlab.config import ConfigError
from resnetlab.system.process_group import ProcessGroup, local_world_size, process_group_from_env, restart_count

GIVEN = {"WORLD_SIZE": "3", "RANK": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.fixture(autouse=True)
def nothing_given(monkeypatch):
    for name in (*GIVEN, "LOCAL_WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)


def set_all(monkeypatch, changes):
    for name, value in {**GIVEN, **changes}.items():
        if value is not None:
            monkeypatch.setenv(name, value)


def test_it_is_who_torchrun_says(monkeypatch):
    assert process_group_from_env() == ProcessGroup(0, 1)
    set_all(monkeypatch, {})
    assert process_group_from_env() == ProcessGroup(2, 3)


def test_a_rank_without_others_is_the_first(monkeypatch):
    """As a cluster's scheduler may leave it; who is alone speaks and writes."""
    monkeypatch.setenv("RANK", "1")
    assert process_group_from_env().is_first


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE must be a whole number, at least 1, not 'abc'; start several processes by"),
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
def test_half_of_what_torchrun_says_is_a_mistake(changes, said, monkeypatch):
    set_all(monkeypatch, changes)
    with pytest.raises(ConfigError, match=said):
        process_group_from_env()


def test_counts(monkeypatch):
    assert (local_world_size(), restart_count()) == (1, 0)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    assert (local_world_size(), restart_count()) == (8, 2)
