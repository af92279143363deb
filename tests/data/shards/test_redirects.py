"""Redirects are followed only where the user named the host; slow servers get smaller requests."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from resnetlab.data.shards import fetch
from resnetlab.data.shards.fetch import RemoteError, RemoteReader
from resnetlab.data.shards.redirects import ALLOWED_HOSTS


@contextmanager
def serve(handle):
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args):  # pyright: ignore[reportIncompatibleMethodOverride]
            pass

        def do_GET(self):
            handle(self)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def answer(handler, status=200, body=b"", **headers):
    handler.send_response(status)
    for name, value in {**headers, "Content-Length": str(len(body))}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


@pytest.fixture
def elsewhere():
    """A server of another port, and the paths that were requested from it."""
    requested = []

    def handle(handler):
        requested.append(handler.path)
        answer(handler, body=b"secret")

    with serve(handle) as (url, _):
        yield url, requested


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_host_is_not_followed(elsewhere, status):
    url, requested = elsewhere
    with serve(lambda handler: answer(handler, status, Location=f"{url}/index.json")) as (named, _):
        with pytest.raises(RemoteError) as caught:
            RemoteReader(named).read_small("index.json")
        assert str(caught.value) == (
            f"{named}/index.json: cannot be read (its server redirects to {url}, which --data does not name; name it, "
            f"or allow it with {ALLOWED_HOSTS}=127.0.0.1)"
        )
    assert requested == []


def test_an_allowed_host_is_followed(elsewhere, monkeypatch):
    url, requested = elsewhere
    monkeypatch.setenv(ALLOWED_HOSTS, "example.org, 127.0.0.1")
    with serve(lambda handler: answer(handler, 302, Location=f"{url}/index.json")) as (named, _):
        assert RemoteReader(named).read_small("index.json") == b"secret"
    assert requested == ["/index.json"]


@pytest.mark.parametrize("location", ["http://", "http://[::1", "file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_other_schemes_and_invalid_addresses_are_refused(location):
    with serve(lambda handler: answer(handler, 302, Location=location)) as (named, _):
        with pytest.raises(RemoteError, match="cannot be read") as caught:
            RemoteReader(named).read_small("index.json")
        assert "\n" not in str(caught.value)


def test_redirects_on_the_same_host_are_followed():
    def handle(handler):
        if handler.path == "/b":
            answer(handler, body=b"here")
        else:
            answer(handler, 302, Location="/b")

    with serve(handle) as (named, _):
        assert RemoteReader(named).read_small("index.json") == b"here"


def test_a_slow_server_gets_smaller_requests(tmp_path, monkeypatch):
    """It needs longer than the time limit for a whole block, and every attempt requested the same block before."""
    content, requests = bytes(range(256)) * 64, []

    def handle(handler):
        first, last = map(int, handler.headers["Range"].removeprefix("bytes=").split("-"))
        requests.append(last + 1 - first)
        if last + 1 - first > 4096:
            stopped.wait(1.0)
        answer(
            handler,
            206,
            content[first : last + 1],
            Content_Range=f"bytes {first}-{last}/{len(content)}",
        )

    stopped = threading.Event()
    monkeypatch.setattr(fetch, "BLOCK_BYTES", len(content))
    monkeypatch.setattr(fetch, "MIN_BLOCK_BYTES", 1024)
    monkeypatch.setattr(fetch, "TIMEOUT_S", 0.25)
    monkeypatch.setattr(fetch, "RETRY_DELAYS_S", (0.01,) * 6)
    with serve(handle) as (named, _):
        blocks = list(RemoteReader(named).blocks("a.tar", len(content)))
        stopped.set()
    assert b"".join(blocks) == content
    assert requests[:3] == [16384, 8192, 4096]
