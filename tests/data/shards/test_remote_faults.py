"""Faults of a remote server: transient errors are logged and retried, others are reported."""

import errno
import hashlib
import json
import logging
import re
import shutil
from dataclasses import replace

import pytest
import torch

from helpers.remote_shards import RECIPE, cached_files, open_remote, pack_shards, read_all
from helpers.web_server import serve_folder
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
    return pack_shards(tmp_path_factory.mktemp("far"))


@pytest.fixture
def server(shards):
    with serve_folder(shards) as server:
        yield server


@pytest.fixture(autouse=True)
def short_delays(monkeypatch):
    monkeypatch.setattr(fetch, "RETRY_DELAYS_S", (0.01, 0.02, 0.03))


def read_error(server, cache) -> str:
    with pytest.raises(RemoteError) as caught:
        read_all(server, cache)
    return str(caught.value).replace(server.url, "URL")


def logged(server, caplog) -> list[str]:
    """Return the log messages without the delays, which are random."""
    messages = [record.getMessage().replace(server.url, "URL") for record in caplog.records]
    return [re.sub(r"in 0\.\d+ s", "in SECONDS", line) for line in messages]


def test_a_small_file_that_is_too_large_is_not_read(tmp_path, shards, monkeypatch):
    large = shutil.copytree(shards, tmp_path / "large")
    with (large / "train-000003.npz").open("ab") as file:
        file.truncate(1 << 26)
    with serve_folder(large) as server:
        message = read_error(server, tmp_path)
        assert re.fullmatch(r"URL/train-000003.npz: cannot be read \(it has more than [\d,]+ bytes\)", message)
        assert server.requests["train-000003.npz"] == 1
        monkeypatch.setattr(fetch.RemoteReader.read_small, "__defaults__", (100,))
        for url in (server.url, large.as_uri()):
            with pytest.raises(RemoteError, match=r"index.json: cannot be read \(it has more than 100 bytes\)"):
                open_data(DataConfig(url, root=str(tmp_path)))


@pytest.mark.parametrize("name", ["train-000003.tar", "train-000003.npz", "index.json"])
def test_each_retry_is_logged(server, tmp_path, caplog, name):
    server.faulty_name, server.faults = name, ["503", "429"]
    read_all(server, tmp_path)
    assert logged(server, caplog) == [
        f"URL/{name}: HTTP 503 Service Unavailable; trying again in SECONDS, attempt 2 of 4",
        f"URL/{name}: HTTP 429 Too Many Requests; trying again in SECONDS, attempt 3 of 4",
    ]


def test_success_and_permanent_errors_are_not_logged(server, tmp_path, caplog):
    read_all(server, tmp_path / "success")
    server.faulty_name, server.faults = "train-000003.tar", ["403"] * 2
    read_error(server, tmp_path / "permanent")
    assert caplog.records == []


def test_retries_do_not_appear_on_stdout(server, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # without pytest's handlers, as for a user
    server.faulty_name, server.faults = "train-000003.tar", ["503", "503"]
    assert main(["data", "check", server.url, "--data-root", str(tmp_path), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["warnings"] == []
    assert [line.partition(": ")[0] for line in captured.err.splitlines()] == [f"{server.url}/train-000003.tar"] * 2


def test_only_one_thread_waits_for_a_dead_server(server, tmp_path):
    data = open_remote(server, tmp_path)
    for path in cached_files(tmp_path):
        path.unlink()
    server.requests.clear()
    server.faults = ["503"] * 1000
    with pytest.raises(RemoteError, match="after 4 attempts"):
        list(train_batches(data.train, data.preprocessing, RECIPE, seed=0, epoch=0, workers=8))
    assert max(server.requests.values()) <= 2 * 4  # one prefetch and one reader


@pytest.mark.parametrize("fault", ["drop", "500", "503", "429"])
def test_transient_errors_are_retried(server, tmp_path, fault):
    expected = read_all(server, tmp_path / "expected")
    server.faults = [fault] * 3 + [""] + [fault] * 2
    assert torch.equal(read_all(server, tmp_path / "other"), expected)


def test_a_broken_download_continues(server, shards, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "BLOCK_BYTES", 5_000)
    length = (shards / "train-000000.tar").stat().st_size
    server.faults = ["", "", "drop", "drop"]
    read_all(server, tmp_path)
    assert server.served_bytes["train-000000.tar"] == length
    assert server.requests["train-000000.tar"] == -(-length // 5_000) + 2
    for path in cached_files(tmp_path):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name


def test_the_next_process_continues_a_failed_download(server, shards, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "BLOCK_BYTES", 5_000)
    server.faults = ["", "", *["drop"] * 20]
    message = read_error(server, tmp_path)
    assert re.fullmatch(
        r"URL/train-000000.tar: cannot be read after 4 attempts \(.*\); the downloaded part is stored, and the same "
        "command continues from it",
        message,
    )
    partial_sizes = [path.stat().st_size for path in (tmp_path / "shards").glob("*.part")]
    assert 10_000 in partial_sizes
    server.faults.clear()
    read_all(server, tmp_path)
    assert server.served_bytes["train-000000.tar"] == (shards / "train-000000.tar").stat().st_size


def test_a_stalled_server_times_out(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "TIMEOUT_S", 0.1)
    monkeypatch.setattr(fetch, "RETRY_DELAYS_S", (0.01,))
    server.faults = ["stall"] * 4
    assert read_error(server, tmp_path).startswith(
        "URL/train-000000.tar: cannot be read after 2 attempts (no data for 0.1 s); "
    )


def test_a_file_with_a_wrong_checksum_is_downloaded_again(server, tmp_path, caplog):
    server.faults = ["damage"]
    read_all(server, tmp_path)
    assert server.requests["train-000000.tar"] == 2
    assert logged(server, caplog) == ["URL/train-000000.tar: its SHA-256 differs from index.json; downloading it again"]


def test_a_file_that_stays_wrong_is_reported(server, tmp_path):
    server.faults = ["damage"] * 2
    assert read_error(server, tmp_path) == (
        "URL/train-000000.tar: downloaded twice, and its SHA-256 differs from index.json; start again if it was packed "
        "again meanwhile, else pack it again"
    )
    assert not list((tmp_path / "shards").glob("*.part"))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("404", "URL/train-000000.tar: does not exist; pack it again"),
        (
            "403",
            f"URL/train-000000.tar: cannot be read (HTTP 403 Forbidden); check that you may read it; {CREDENTIALS}",
        ),
        (
            "401",
            f"URL/train-000000.tar: cannot be read (HTTP 401 Unauthorized); check that you may read it; {CREDENTIALS}",
        ),
        ("410", "URL/train-000000.tar: cannot be read (HTTP 410 Gone)"),
    ],
)
def test_permanent_errors_are_not_retried(server, tmp_path, fault, message):
    server.faults = [fault] * 20
    assert read_error(server, tmp_path) == message
    assert server.requests["train-000000.tar"] <= 2


def test_missing_and_damaged_indices_are_reported(server, tmp_path):
    server.faulty_name, server.faults = "index.json", ["404"]
    with pytest.raises(ConfigError, match=r"has no index.json; give the URL of shards from resnetlab data pack"):
        open_remote(server, tmp_path)
    server.faulty_name, server.faults = "train-000003.npz", ["404"]
    with pytest.raises(ConfigError, match=r"train-000003.npz: does not exist; pack it again"):
        open_remote(server, tmp_path)
    server.faults = ["damage"]
    with pytest.raises(ConfigError, match=r"train-000003.npz: its SHA-256 differs from index.json"):
        open_remote(server, tmp_path)


def test_no_server(tmp_path):
    with pytest.raises(
        RemoteError, match=r"http://127.0.0.1:9/x/index.json: cannot be read after 4 attempts \(Cannot.*check the URL"
    ):
        open_data(DataConfig("http://127.0.0.1:9/x", root=str(tmp_path)))


def test_an_invalid_url(tmp_path):
    with pytest.raises(ConfigError, match="nonsense://x: "):
        open_data(DataConfig("nonsense://x", root=str(tmp_path)))


def test_a_server_without_range_requests(server, tmp_path, monkeypatch):
    expected = read_all(server, tmp_path / "expected")
    monkeypatch.setattr(fetch, "BLOCK_BYTES", 5_000)
    server.supports_ranges = False
    server.requests.clear()
    assert torch.equal(read_all(server, tmp_path / "other"), expected)
    assert server.requests["train-000001.tar"] <= 2


def test_a_full_disk_is_not_a_bad_image(server, tmp_path, monkeypatch):
    data = open_remote(server, tmp_path)
    shutil.rmtree(tmp_path / "shards")
    (tmp_path / "shards").mkdir()

    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(remote.ShardCache, "fill", full)
    images = data.train.images
    assert isinstance(images, EncodedImages)
    store = images.storage.shards[0].store  # pyright: ignore
    store._open_files = remote.OpenFileCache(1)
    with pytest.raises(RemoteError, match=r"the cache cannot be written \(No space left on device\); free some space"):
        replace(images, skip_bad=True).decode_eval_views(torch.arange(1))
