"""A web server on the loopback that serves a folder, with range requests, and that can be told to misbehave."""

import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Server(ThreadingHTTPServer):
    """`faults` are taken one by one, by requests for names that contain `of`; what was asked for is counted.

    Where `wants` is given, that must be a request's `Authorization`.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.of = ".tar"
        self.faults: list[str] = []
        self.ranges = True
        self.wants: str | None = None
        self.asked: Counter[str] = Counter()
        self.order: list[str] = []
        self.spans: list[tuple[int, int]] = []
        self.served: Counter[str] = Counter()
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/some/shards"

    def handle_error(self, request, client_address) -> None:
        """Say nothing: connections are broken on purpose."""


class Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format, *args) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        with self.server.lock:
            self.server.asked[name] += 1
            self.server.order.append(name)
            fault = self.server.faults.pop(0) if self.server.of in name and self.server.faults else ""
        if self.server.wants not in (None, self.headers.get("Authorization")):
            fault = "401"
        path = self.server.folder / name
        if fault.isdigit() or not path.is_file():
            self.send_response(int(fault or 404))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = path.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if self.server.ranges else None
        start, end = (int(asked[1]), min(int(asked[2]) + 1, len(content))) if asked else (0, len(content))
        with self.server.lock:
            self.server.spans.append((start, end))
        body = content[start:end]
        if fault == "damage":
            body = bytes([body[0] ^ 1]) + body[1:]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(body)))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        self.end_headers()
        if fault == "stall":
            time.sleep(2)
        self.wfile.write(body[: len(body) // 2] if fault == "drop" else body)
        with self.server.lock:
            self.server.served[name] += 0 if fault == "drop" else len(body)
        if fault == "drop":
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
