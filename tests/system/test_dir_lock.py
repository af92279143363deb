"""A folder is held against others, and let go of."""

import pytest

from resnetlab.config import ConfigError
from resnetlab.system.dir_lock import claimed, is_claimed


def test_held_and_let_go_of(tmp_path):
    out = tmp_path / "run"
    assert not is_claimed(out)
    with claimed(out, "run"):
        (out / "something").touch()
        assert is_claimed(out)
        with pytest.raises(ConfigError, match="is in use by another run"), claimed(out, "run"):
            pass
    assert not is_claimed(out)


def test_a_folder_of_which_nothing_came_is_removed(tmp_path):
    with claimed(tmp_path / "run", "run"):
        pass
    assert not (tmp_path / "run").exists()
