"""A local web server that serves a folder, supports range requests, and fails on demand."""

import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Server(ThreadingHTTPServer):
    """A server whose `faults` are used one by one, by requests for names that contain `faulty_name`.

    It counts requests and served bytes. If `authorization` is set, requests must have that `Authorization` header.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.faulty_name = ".tar"
        self.faults: list[str] = []
        self.supports_ranges = True
        self.authorization: str | None = None
        self.requests: Counter[str] = Counter()
        self.request_order: list[str] = []
        self.served_bytes: Counter[str] = Counter()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/some/shards"

    def handle_error(self, request, client_address) -> None:
        """Print nothing: connections are broken on purpose."""


class Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format, *args) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        with self.server.lock:
            self.server.requests[name] += 1
            self.server.request_order.append(name)
            fault = self.server.faults.pop(0) if self.server.faulty_name in name and self.server.faults else ""
        if self.server.authorization not in (None, self.headers.get("Authorization")):
            fault = "401"
        path = self.server.folder / name
        if fault.isdigit() or not path.is_file():
            self.send_response(int(fault or 404))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = path.read_bytes()
        byte_range = (
            re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if self.server.supports_ranges else None
        )
        start, end = _limits(byte_range, len(content)) if byte_range else (0, len(content))
        if start >= len(content) > 0:
            self.send_response(416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = content[start:end]
        if fault == "damage":
            body = bytes([body[0] ^ 1]) + body[1:]
        self.send_response(206 if byte_range else 200)
        self.send_header("Content-Length", str(len(body)))
        if byte_range:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        self.end_headers()
        if fault == "stall":
            time.sleep(2)
        self.wfile.write(body[: len(body) // 2] if fault == "drop" else body)
        with self.server.lock:
            self.server.served_bytes[name] += 0 if fault == "drop" else len(body)
        if fault == "drop":
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()


def _limits(byte_range: re.Match[str], length: int) -> tuple[int, int]:
    """Return start and end of a requested range; one without an end goes to the end of the file."""
    last = int(byte_range[2]) if byte_range[2] else length - 1
    return int(byte_range[1]), min(last + 1, length)


@contextmanager
def serve_folder(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
