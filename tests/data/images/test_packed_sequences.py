"""Columns are the sequences they stand for."""

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
def test_texts_are_the_strings(names):
    texts = PackedStrings.of(names)
    assert list(texts) == names
    assert texts == names
    assert len(texts) == len(names)
    rows = [row * 31 % len(names) for row in range(9)] if names else []
    chosen = texts.take(np.array(rows, np.int64))
    assert list(chosen) == [names[row] for row in rows]
    assert list(concatenate([chosen, texts, PackedStrings.of(["x"]), chosen])) == [*chosen, *names, "x", *chosen]
    assert list(texts[1:]) == names[1:]


@pytest.mark.parametrize("names", NAMES)
def test_texts_sort_as_the_strings_do(names):
    order = np.argsort(PackedStrings.of(names).sortable(), kind="stable")
    assert [names[at] for at in order] == sorted(names)


def test_ends_and_negative_rows():
    texts = PackedStrings.of(["a", "bc"])
    assert texts[-1] == "bc"
    assert texts != ["a"]
    assert texts != 5
    for row in (2, -3):
        with pytest.raises(IndexError):
            texts[row]


def test_what_is_no_column_becomes_a_tuple():
    assert take_items(["a", "b"], np.array([1, 1])) == ("b", "b")
    assert concatenate([["a"], ("b",)]) == ("a", "b")
    assert list(concatenate([PackedStrings.of(["a"]), ["b"]])) == ["a", "b"]


def test_pieces_are_read_from_their_shards(tmp_path):
    shards = [LocalShard(tmp_path / name) for name in ("one", "two")]
    shards[0].path.write_bytes(b"0123456789")
    shards[1].path.write_bytes(b"abcdefghij")
    pieces = PackedByteRanges(shards, np.array([1, 0, 1]), np.array([0, 3, 8]), np.array([2, 4, 2]))
    assert [read_image_bytes(piece) for piece in pieces] == [b"ab", b"3456", b"ij"]
    assert [stored_size(piece) for piece in pieces] == [2, 4, 2]
    other = PackedByteRanges([LocalShard(tmp_path / "one")], np.array([0]), np.array([9]), np.array([1]))
    assert [read_image_bytes(piece) for piece in concatenate([pieces.take(np.array([2])), other])] == [b"ij", b"9"]
    with pytest.raises(OSError, match="one ends before byte 11"):
        ByteRange(shards[0], 9, 2).read()
    with pytest.raises(FileNotFoundError):
        ByteRange(LocalShard(tmp_path / "gone"), 0, 1).read()


def test_few_files_are_open_at_a_time(tmp_path):
    shards = [LocalShard(tmp_path / str(number)) for number in range(300)]
    for shard in shards:
        shard.path.write_bytes(b"x")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for shard in shards * 2:
        assert ByteRange(shard, 0, 1).read() == b"x"
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= 128
