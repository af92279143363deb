"""Packed sequences are equal to the sequences they were packed from."""

from pathlib import Path

import numpy as np
import pytest

from resnetlab.data.images.packed_sequences import PackedByteRanges, PackedStrings, concatenate, take_items
from resnetlab.data.images.storage import ByteRange, LocalShard, read_image_bytes, stored_size

NAMES = [
    [],
    [""],
    ["a", "", "ab", "b", "a"],
    ["größe", "grosse", "\U0001f600", "\uffee", "z", "\x01", "train/ant/10.png", "train/ant/9.png"],
    [f"{number * 7919 % 40_000}" for number in range(40_000)],
]


@pytest.mark.parametrize("names", NAMES)
def test_packed_strings_equal_the_strings(names):
    strings = PackedStrings.from_strings(names)
    assert list(strings) == names
    assert strings == names
    assert len(strings) == len(names)
    rows = [row * 31 % len(names) for row in range(9)] if names else []
    taken = strings.take(np.array(rows, np.int64))
    assert list(taken) == [names[row] for row in rows]
    assert list(concatenate([taken, strings, PackedStrings.from_strings(["x"]), taken])) == [
        *taken,
        *names,
        "x",
        *taken,
    ]
    assert list(strings[1:]) == names[1:]


@pytest.mark.parametrize("names", NAMES)
def test_sortable_sorts_like_the_strings(names):
    order = np.argsort(PackedStrings.from_strings(names).sortable(), kind="stable")
    assert [names[row] for row in order] == sorted(names)


def test_negative_and_invalid_rows():
    strings = PackedStrings.from_strings(["a", "bc"])
    assert strings[-1] == "bc"
    assert strings != ["a"]
    assert strings != 5
    for row in (2, -3):
        with pytest.raises(IndexError):
            strings[row]


def test_other_sequences_become_a_tuple():
    assert take_items(["a", "b"], np.array([1, 1])) == ("b", "b")
    assert concatenate([["a"], ("b",)]) == ("a", "b")
    assert list(concatenate([PackedStrings.from_strings(["a"]), ["b"]])) == ["a", "b"]


def test_byte_ranges_are_read_from_their_shards(tmp_path):
    shards = [LocalShard(tmp_path / name) for name in ("one", "two")]
    shards[0].path.write_bytes(b"0123456789")
    shards[1].path.write_bytes(b"abcdefghij")
    ranges = PackedByteRanges(shards, np.array([1, 0, 1]), offsets=np.array([0, 3, 8]), lengths=np.array([2, 4, 2]))
    assert [read_image_bytes(item) for item in ranges] == [b"ab", b"3456", b"ij"]
    assert [stored_size(item) for item in ranges] == [2, 4, 2]
    other = PackedByteRanges(
        [LocalShard(tmp_path / "one")], np.array([0]), offsets=np.array([9]), lengths=np.array([1])
    )
    assert [read_image_bytes(item) for item in concatenate([ranges.take(np.array([2])), other])] == [b"ij", b"9"]
    with pytest.raises(OSError, match="one ends before byte 11"):
        ByteRange(shards[0], 9, 2).read()
    with pytest.raises(FileNotFoundError):
        ByteRange(LocalShard(tmp_path / "gone"), 0, 1).read()


def test_the_number_of_open_files_is_limited(tmp_path):
    shards = [LocalShard(tmp_path / str(number)) for number in range(300)]
    for shard in shards:
        shard.path.write_bytes(b"x")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for shard in shards * 2:
        assert ByteRange(shard, 0, 1).read() == b"x"
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= 128
