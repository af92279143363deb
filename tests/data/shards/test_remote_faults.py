"""Shards behind an address that breaks: what may pass is tried again and told, the rest is named."""

import errno
import hashlib
import json
import logging
import re
import shutil
from dataclasses import replace

import pytest
import torch

from helpers.remote_shards import WAY, cached, opened, packed, whole
from helpers.web_server import serving
from resnetlab.cli.main import main
from resnetlab.config import ConfigError, DataConfig
from resnetlab.data.images.encoded import EncodedImages
from resnetlab.data.loader import train_batches
from resnetlab.data.open_dataset import open_data
from resnetlab.data.registry import CREDENTIALS
from resnetlab.data.shards import fetch, remote
from resnetlab.data.shards.fetch import RemoteError

pytest.importorskip("aiohttp")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return packed(tmp_path_factory.mktemp("far"))


@pytest.fixture
def server(shards):
    with serving(shards) as server:
        yield server


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    monkeypatch.setattr(fetch, "PAUSES_S", (0.01, 0.02, 0.03))


def failing(server, cache) -> str:
    with pytest.raises(RemoteError) as failed:
        whole(server, cache)
    return str(failed.value).replace(server.address, "URL")


def told(server, caplog) -> list[str]:
    """Return what was said of attempts, without the pauses, which are drawn at random."""
    words = [record.getMessage().replace(server.address, "URL") for record in caplog.records]
    return [re.sub(r"in 0\.\d+ s", "in SECONDS", line) for line in words]


@pytest.mark.parametrize("name", ["train-000003.tar", "train-000003.npz", "index.json"])
def test_each_new_attempt_is_told(server, tmp_path, caplog, name):
    server.of, server.faults = name, ["503", "429"]
    whole(server, tmp_path)
    assert told(server, caplog) == [
        f"URL/{name}: HTTP 503 Service Unavailable; trying again in SECONDS, attempt 2 of 4",
        f"URL/{name}: HTTP 429 Too Many Requests; trying again in SECONDS, attempt 3 of 4",
    ]


def test_what_works_or_will_never_work_is_not_told(server, tmp_path, caplog):
    whole(server, tmp_path / "works")
    server.of, server.faults = "train-000003.tar", ["403"] * 2
    failing(server, tmp_path / "never")
    assert caplog.records == []


def test_nothing_of_it_reaches_the_output_of_a_command(server, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's own; a user has none
    server.of, server.faults = "train-000003.tar", ["503", "503"]
    assert main(["data", "check", server.address, "--data-root", str(tmp_path), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["warnings"] == []
    assert [line.partition(": ")[0] for line in captured.err.splitlines()] == [f"{server.address}/train-000003.tar"] * 2


def test_one_thread_finds_out_that_a_server_is_gone(server, tmp_path):
    data = opened(server, tmp_path)
    for path in cached(tmp_path):
        path.unlink()
    server.asked.clear()
    server.faults = ["503"] * 1000
    with pytest.raises(RemoteError, match="after 4 attempts"):
        list(train_batches(data.train, data.preprocessing, WAY, 0, 0, workers=8))
    assert max(server.asked.values()) <= 2 * 4  # once ahead, and once by a reader


@pytest.mark.parametrize("fault", ["drop", "500", "503", "429"])
def test_what_may_pass_is_tried_again(server, tmp_path, fault):
    right = whole(server, tmp_path / "right")
    server.faults = [fault] * 3 + [""] + [fault] * 2
    assert torch.equal(whole(server, tmp_path / "other"), right)


def test_it_goes_on_where_it_broke(server, shards, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "BLOCK", 5_000)
    length = (shards / "train-000000.tar").stat().st_size
    server.faults = ["", "", "drop", "drop"]
    whole(server, tmp_path)
    assert server.served["train-000000.tar"] == length
    assert server.asked["train-000000.tar"] == -(-length // 5_000) + 2
    for path in cached(tmp_path):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name


def test_what_was_fetched_stays_for_the_next_process(server, shards, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "BLOCK", 5_000)
    server.faults = ["", "", *["drop"] * 20]
    reason = failing(server, tmp_path)
    assert re.fullmatch(
        r"URL/train-000000.tar: cannot be read after 4 attempts \(.*\); what was fetched stays, and the same command "
        "goes on with it",
        reason,
    )
    parts = [path.stat().st_size for path in (tmp_path / "shards").glob("*.part")]
    assert 10_000 in parts
    server.faults.clear()
    whole(server, tmp_path)
    assert server.served["train-000000.tar"] == (shards / "train-000000.tar").stat().st_size


def test_a_server_that_stalls_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "STALL_S", 0.1)
    monkeypatch.setattr(fetch, "PAUSES_S", (0.01,))
    server.faults = ["stall"] * 4
    assert failing(server, tmp_path).startswith(
        "URL/train-000000.tar: cannot be read after 2 attempts (nothing came for 0.1 s); "
    )


def test_a_wrong_checksum_is_fetched_once_more(server, tmp_path, caplog):
    server.faults = ["damage"]
    whole(server, tmp_path)
    assert server.asked["train-000000.tar"] == 2
    assert told(server, caplog) == [
        "URL/train-000000.tar: its SHA-256 is not that of index.json; fetching it once more"
    ]


def test_a_shard_that_stays_wrong_is_named(server, tmp_path):
    server.faults = ["damage"] * 2
    assert failing(server, tmp_path) == (
        "URL/train-000000.tar: fetched twice, and its SHA-256 is not that of index.json; it is damaged, or was packed "
        "again meanwhile"
    )
    assert not list((tmp_path / "shards").glob("*.part"))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("404", "URL/train-000000.tar: is missing there; pack it again"),
        (
            "403",
            f"URL/train-000000.tar: cannot be read (HTTP 403 Forbidden); see whether you may read it; {CREDENTIALS}",
        ),
        (
            "401",
            f"URL/train-000000.tar: cannot be read (HTTP 401 Unauthorized); see whether you may read it; {CREDENTIALS}",
        ),
        ("410", "URL/train-000000.tar: cannot be read (HTTP 410 Gone)"),
    ],
)
def test_what_will_not_pass_is_not_tried_again(server, tmp_path, fault, message):
    server.faults = [fault] * 20
    assert failing(server, tmp_path) == message
    assert server.asked["train-000000.tar"] <= 2


def test_where_there_are_no_shards_it_says_so(server, tmp_path):
    server.of, server.faults = "index.json", ["404"]
    with pytest.raises(ConfigError, match=r"there is no index.json, so no shards that resnetlab data pack made"):
        opened(server, tmp_path)
    server.of, server.faults = "train-000003.npz", ["404"]
    with pytest.raises(ConfigError, match=r"train-000003.npz: is missing; pack it again"):
        opened(server, tmp_path)
    server.faults = ["damage"]
    with pytest.raises(ConfigError, match=r"train-000003.npz: its SHA-256 is not that of index.json"):
        opened(server, tmp_path)


def test_nobody_there(tmp_path):
    with pytest.raises(
        RemoteError, match=r"http://127.0.0.1:9/x/index.json: cannot be read after 4 attempts \(Cannot.*see whether"
    ):
        open_data(DataConfig("http://127.0.0.1:9/x", root=str(tmp_path)))


def test_an_address_that_cannot_be(tmp_path):
    with pytest.raises(ConfigError, match="nonsense://x: "):
        open_data(DataConfig("nonsense://x", root=str(tmp_path)))


def test_a_server_without_ranges_will_do(server, tmp_path, monkeypatch):
    right = whole(server, tmp_path / "right")
    monkeypatch.setattr(fetch, "BLOCK", 5_000)
    server.ranges = False
    server.asked.clear()
    assert torch.equal(whole(server, tmp_path / "other"), right)
    assert server.asked["train-000001.tar"] <= 2


def test_a_disk_that_is_full_is_no_image_s_fault(server, tmp_path, monkeypatch):
    data = opened(server, tmp_path)
    shutil.rmtree(tmp_path / "shards")
    (tmp_path / "shards").mkdir()

    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(remote.ShardCache, "filling", full)
    images = data.train.images
    assert isinstance(images, EncodedImages)
    store = images.places.shards[0].store  # pyright: ignore
    store._open = remote.OpenFileCache(1)
    with pytest.raises(RemoteError, match=r"the cache cannot be written \(No space left on device\); make room"):
        replace(images, skip_bad=True).views(torch.arange(1))
