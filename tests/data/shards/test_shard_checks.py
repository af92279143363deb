"""Shards are checked when they are read: damage is the shard's, never an image's; cached shards are fetched again."""

import json
import random
import shutil
from typing import Any, Literal

import pytest
import torch

from helpers.photographs import write_photographs
from helpers.remote_shards import cached_files, config, open_remote, pack_shards, read_all
from helpers.web_server import serve_folder
from resnetlab.config import ConfigError, DataConfig
from resnetlab.data.images import shard_checks
from resnetlab.data.images.shard_checks import SHARD_CHECKS, DamagedShardError, ShardChecks
from resnetlab.data.list_dataset import list_dataset
from resnetlab.data.loader import eval_batches
from resnetlab.data.open_dataset import open_data
from resnetlab.data.shards.format import read_index
from resnetlab.data.shards.pack import PackOptions, pack_dataset


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    source = write_photographs(folder / "source", train=12)
    pack_dataset(DataConfig(str(source)), folder / "shards", PackOptions())
    return folder / "shards"


@pytest.fixture
def copy(packed, tmp_path):
    return shutil.copytree(packed, tmp_path / "copy")


def flip(path, position, bit=0):
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def image_position(folder):
    """Return the position of the first image's header in the training shard, whose damage the decoder notices."""
    storage: Any = list_dataset(DataConfig(str(folder))).splits["train"].storage[0]
    return storage.offset


def read_training_images(folder, *, keep_encoded=True, on_bad_image: Literal["fail", "skip"] = "fail"):
    data = open_data(DataConfig(str(folder), image_size=16, on_bad_image=on_bad_image), keep_encoded=keep_encoded)
    for split in (data.train, data.val):
        for _ in eval_batches(split, data.preprocessing):
            pass


def test_each_flipped_bit_of_a_shard_is_noticed(copy, monkeypatch):
    """Everywhere in the file: images, tar headers, names, padding and the end."""
    path, rng = copy / "train-000000.tar", random.Random(0)
    data = path.read_bytes()
    sha256 = read_index((copy / "index.json").read_bytes(), "").splits["train"][0].sha256
    positions = [0, 511, 512, len(data) - 1, *(rng.randrange(len(data)) for _ in range(96))]
    for position in positions:
        path.write_bytes(data)
        flip(path, position, rng.randrange(8))
        with pytest.raises(DamagedShardError, match=r"train-000000\.tar: this shard is damaged"):
            ShardChecks().wait(path, sha256)
    path.write_bytes(data)
    ShardChecks().wait(path, sha256)


@pytest.mark.parametrize("on_bad_image", ["fail", "skip"])
def test_a_damaged_image_is_the_damage_of_its_shard(copy, on_bad_image):
    for offset in range(2):
        flip(copy / "train-000000.tar", image_position(copy) + offset, 3)
    message = r"train-000000\.tar: this shard is damaged .*not to blame; pack it again"
    with pytest.raises(DamagedShardError, match=message):
        read_training_images(copy, on_bad_image=on_bad_image)


@pytest.mark.parametrize("keep_encoded", [True, False])
def test_damage_that_no_decoder_notices_ends_the_pass(copy, keep_encoded):
    flip(copy / "train-000000.tar", (copy / "train-000000.tar").stat().st_size - 1)
    with pytest.raises(DamagedShardError, match=r"train-000000\.tar"):
        read_training_images(copy, keep_encoded=keep_encoded)


def test_a_repaired_shard_is_checked_again(copy):
    path = copy / "train-000000.tar"
    intact = path.read_bytes()
    flip(path, len(intact) - 1)
    for _ in range(2):
        with pytest.raises(DamagedShardError):
            open_data(DataConfig(str(copy), image_size=16))
    path.unlink()
    path.write_bytes(intact)
    open_data(DataConfig(str(copy), image_size=16))


def test_a_shard_is_read_in_full_once(copy, monkeypatch):
    read = []
    monkeypatch.setattr(shard_checks, "find_damage", lambda path, sha256: read.append(path.name) or "")
    for _ in range(2):
        read_training_images(copy)
    assert sorted(read) == sorted(path.name for path in copy.glob("*.tar"))


def test_processes_of_torchrun_divide_the_checks(copy, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    counts = []
    for rank in range(3):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        counts.append(sum(shard_checks.is_checked_here(copy / f"train-{number:06}.tar") for number in range(90)))
    assert sum(counts) == 90
    assert min(counts) > 10


def test_a_forked_process_checks_what_was_unfinished(copy):
    checks = ShardChecks()
    checks._pending.add(copy / "train-000000.tar")  # its thread stays in the other process
    checks.reset_after_fork()
    with pytest.raises(DamagedShardError):
        checks.wait(copy / "train-000000.tar", "0" * 64)


def test_a_missing_shard_is_named(copy):
    with pytest.raises(DamagedShardError, match=r"gone\.tar: cannot be read \(No such file"):
        SHARD_CHECKS.wait(copy / "gone.tar", "0" * 64)


def test_damaged_shards_are_not_packed_again(copy, tmp_path):
    flip(copy / "train-000000.tar", (copy / "train-000000.tar").stat().st_size - 1)
    with pytest.raises(DamagedShardError, match=r"copy/train-000000\.tar"):
        pack_dataset(DataConfig(str(copy), on_bad_image="skip"), tmp_path / "again", PackOptions())


def test_each_changed_value_of_the_index_is_noticed(copy):
    path, rng = copy / "index.json", random.Random(0)
    data = path.read_bytes()
    for position in rng.sample(range(len(data)), 200):
        path.write_bytes(data)
        flip(path, position, rng.randrange(8))
        with pytest.raises(ConfigError, match=r"copy"):  # or, with a damaged format, no folder of shards
            list_dataset(DataConfig(str(copy)))


def test_an_index_of_an_older_version_is_read(copy):
    content = json.loads((copy / "index.json").read_text())
    del content["sha256"]
    (copy / "index.json").write_text(json.dumps(content))
    assert len(list_dataset(DataConfig(str(copy))).classes) == len(content["classes"])


@pytest.fixture(scope="module")
def remote(tmp_path_factory):
    return pack_shards(tmp_path_factory.mktemp("remote"))


def test_a_damaged_cached_shard_is_downloaded_again(remote, tmp_path, caplog):
    with serve_folder(remote) as server:
        first = read_all(server, tmp_path)
        path = max(cached_files(tmp_path), key=lambda file: file.stat().st_size)
        intact, rng = path.read_bytes(), random.Random(0)
        for _ in range(5):
            flip(path, rng.randrange(len(intact)), rng.randrange(8))
            caplog.clear()
            again = read_all(server, tmp_path)
            assert torch.equal(again, first)
            assert path.read_bytes() == intact
            assert sum("is damaged; downloading it again" in message for message in caplog.messages) == 1


def first_image(server, folder) -> Any:
    """Return where the first training image of remote shards is stored."""
    return list_dataset(config(server, folder)).splits["train"].storage[0]


@pytest.mark.slow
def test_each_flipped_bit_of_a_cached_shard_is_noticed(remote, tmp_path):
    """Takes some seconds: the shard is listed, checked and downloaded a hundred times."""
    with serve_folder(remote) as server:
        shard = first_image(server, tmp_path).shard
        shard.open()
        path = shard.store.cache.path(shard.sha256)
        intact, rng = path.read_bytes(), random.Random(0)
        for position in [0, len(intact) - 1, *(rng.randrange(len(intact)) for _ in range(98))]:
            flip(path, position, rng.randrange(8))
            first_image(server, tmp_path).shard.store.open(shard.entry)
            assert path.read_bytes() == intact


def test_a_cached_shard_that_is_damaged_while_it_is_read_is_named(remote, tmp_path):
    from resnetlab.data.shards.fetch import RemoteError

    with serve_folder(remote) as server:
        images: Any = open_remote(server, tmp_path).train.images
        images.decode_eval_views(torch.arange(2))
        item = images.storage[0]
        path = item.shard.store.cache.path(item.shard.sha256)
        with path.open("r+b") as file:
            file.seek(item.offset)
            file.write(b"\0" * item.length)
        with pytest.raises(
            RemoteError, match="was damaged while it was read, and is deleted; run the same command again"
        ):
            images.decode_eval_views(torch.arange(2))
        assert not path.exists()
