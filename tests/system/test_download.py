"""Downloads from a local server that drops connections, sends wrong bytes or refuses."""

import hashlib
import logging
import re
import resource
import subprocess
import sys

import pytest

from helpers.web_server import serve_folder
from resnetlab.system import download as module
from resnetlab.system.download import CacheError, DownloadError, HashError, RemoteFile, download, partial_file

CONTENT = bytes(range(256)) * 2_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = "net-12345678.pth"


@pytest.fixture
def server(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / NAME).write_bytes(CONTENT)
    with serve_folder(tmp_path / "far") as server:
        server.faulty_name = NAME
        yield server


@pytest.fixture(autouse=True)
def short_delays(monkeypatch):
    monkeypatch.setattr(module, "RETRY_DELAYS_S", (0.01, 0.01, 0.01))


@pytest.fixture
def target(tmp_path):
    return tmp_path / "cache" / NAME


def remote(server, sha256=SHA256[:8]):
    return RemoteFile(f"{server.url}/{NAME}", sha256)


def files(target):
    """Return the names in the cache without locks."""
    return {path.name for path in target.parent.iterdir() if path.suffix != ".lock"}


def test_file_arrives_whole_with_progress(server, target):
    seen = []
    download(remote(server), target, lambda done, total: seen.append((done, total)))
    assert target.read_bytes() == CONTENT
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert files(target) == {NAME}
    assert oct(target.stat().st_mode & 0o644) == oct(0o644)  # other users may read it


def test_existing_file_needs_no_network(server, target):
    target.parent.mkdir()
    target.write_bytes(CONTENT)
    download(RemoteFile("http://127.0.0.1:1/nothing", SHA256), target)
    assert server.requests == {}


def test_dropped_connection_is_resumed(server, target, caplog):
    server.faults = ["drop"]
    download(remote(server), target)
    assert target.read_bytes() == CONTENT
    assert server.requests[NAME] == 2
    assert server.served_bytes[NAME] < len(CONTENT)  # the second request asked for the rest only
    assert "the connection was closed early; trying again in 0.01 s" in caplog.text


def test_attempts_start_again_after_progress(server, target):
    server.faults = ["drop"] * 6  # more than the attempts without progress
    download(remote(server), target)
    assert target.read_bytes() == CONTENT


def test_a_later_call_continues_the_partial_file(server, target):
    server.faults = ["503"] * 5
    target.parent.mkdir()
    partial_file(target).write_bytes(CONTENT[:100_000])
    with pytest.raises(DownloadError, match=r"cannot be downloaded after 4 attempts \(HTTP 503 Service Unavailable\)"):
        download(remote(server), target)
    assert not target.exists()
    server.faults = []
    download(remote(server), target)
    assert server.served_bytes[NAME] == len(CONTENT) - 100_000


@pytest.mark.parametrize("start", [CONTENT, CONTENT + b"more"], ids=["complete", "too long"])
def test_partial_file_that_needs_no_bytes(server, target, start):
    target.parent.mkdir()
    partial_file(target).write_bytes(start)
    download(remote(server), target)
    assert target.read_bytes() == CONTENT


def test_server_without_ranges_sends_all_again(server, target):
    server.supports_ranges = False
    server.faults = ["drop"]
    download(remote(server), target)
    assert target.read_bytes() == CONTENT


def test_partial_file_of_other_content_is_replaced(server, target, caplog):
    target.parent.mkdir()
    partial_file(target).write_bytes(b"x" * 1_000)
    download(remote(server), target)
    assert target.read_bytes() == CONTENT
    assert "the SHA-256 of the resumed file is wrong; downloading it again" in caplog.text


@pytest.mark.parametrize("kind", ["damage", "truncated", "other"])
def test_wrong_content_is_refused_and_not_kept(server, target, kind):
    path = server.folder / NAME
    path.write_bytes({"truncated": CONTENT[:-1], "other": b"<html>blocked</html>"}.get(kind, CONTENT))
    server.faults = ["damage"] if kind == "damage" else []
    with pytest.raises(HashError, match=rf"bytes received with SHA-256 .* instead of {SHA256[:8]}; .* nothing of it"):
        download(remote(server), target)
    assert files(target) == set()


@pytest.mark.parametrize(("status", "requests"), [("404", 1), ("403", 1), ("410", 1), ("500", 4), ("429", 4)])
def test_statuses(server, target, status, requests):
    server.faults = [status] * 9
    with pytest.raises(DownloadError, match=rf"{re.escape(server.url)}/{NAME}: cannot be .* \(HTTP {status}"):
        download(remote(server), target)
    assert server.requests[NAME] == requests


def test_temporary_error_is_retried(server, target):
    server.faults = ["500", "503", "429"]
    download(remote(server), target)
    assert target.read_bytes() == CONTENT


def test_silent_server(server, target, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT_S", 0.1)
    server.faults = ["stall"]
    download(remote(server), target)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/a.pth", "http://no-such-host.invalid/a.pth"])
def test_without_network_there_is_one_attempt(url, target, caplog):
    with pytest.raises(DownloadError, match=rf"{url}: cannot be downloaded \(.+\)$"):
        download(RemoteFile(url, SHA256), target)
    assert caplog.records == []


def test_full_disk(server, target):
    target.parent.mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))  # the kernel refuses to write further: EFBIG
    try:
        with pytest.raises(CacheError, match=rf"{re.escape(str(target))}: cannot be written \(File too large\)$"):
            download(remote(server), target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert files(target) == set()
    download(remote(server), target)
    assert target.read_bytes() == CONTENT


def test_folder_that_is_a_file(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match=r"cannot be written \((File exists|Not a directory)\)$"):
        download(remote(server), tmp_path / "file" / NAME)


def test_two_processes_download_once(server, target):
    server.faults = ["stall"]  # two seconds, in which the other process starts
    code = (
        "import sys; from pathlib import Path; from resnetlab.system.download import RemoteFile, download;"
        f"download(RemoteFile('{server.url}/{NAME}', '{SHA256}'), Path({str(target)!r}))"
    )
    command = [sys.executable, "-c", code]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert target.read_bytes() == CONTENT
    assert server.requests[NAME] == 1
    assert sorted(errors) == ["", f"{NAME}: another process downloads it; waiting\n"]


def test_redirect_without_encryption_is_refused():
    import urllib.request

    request = urllib.request.Request("https://a.example/x")
    with pytest.raises(ValueError, match="not encrypted"):
        module._Redirects().redirect_request(request, None, 302, "Found", {}, "http://b.example/x")
    assert module._Redirects().redirect_request(request, None, 302, "Found", {}, "https://b.example/x")


def test_retries_are_logged_once(server, target, caplog):
    caplog.set_level(logging.WARNING)
    server.faults = ["503"]
    download(remote(server), target)
    assert [record.getMessage() for record in caplog.records] == [
        f"{server.url}/{NAME}: HTTP 503 Service Unavailable; trying again in 0.01 s"
    ]
