"""A real `resnetlab serve` on a free port of this machine, for the tests of this room."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

PROBLEM = "application/problem+json"
CLOSE = 1e-4
"""By how much probabilities may differ between batches of different sizes."""


class Served:
    """A server that runs."""

    def __init__(self, process: subprocess.Popen[str], said: str) -> None:
        self.process = process
        self.said = said
        found = re.search(r"on (http://\S+:(\d+)/)$", said)
        assert found is not None, said
        self.url, self.port = found[1], int(found[2])
        self.http = httpx.Client(base_url=self.url, timeout=60)
        self.errors: list[str] = []
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.errors.extend(self.process.stderr)

    def post(self, data: Any, path: str = "/v1/predict", **query: Any) -> httpx.Response:
        return self.http.post(path, content=data, params=query)

    def worker(self) -> int:
        """Return the process id of the worker, 0 where there is none."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0]) if children else 0

    def metric(self, line: str) -> float:
        """Return the value of a line of `/metrics`, 0 where there is none."""
        for one in self.http.get("/metrics").text.splitlines():
            if one.startswith(line + " "):
                return float(one.rpartition(" ")[2])
        return 0.0

    def end(self, signum: int = signal.SIGTERM) -> int:
        """Send a signal; return the exit status."""
        self.process.send_signal(signum)
        return self.process.wait(30)

    def stderr(self) -> str:
        """Return what it wrote to standard error until its end."""
        self._reading.join(10)
        return "".join(self.errors)


@contextmanager
def served(model: Path, *words: object, clean: bool = True, **environment: str) -> Iterator[Served]:
    """Serve a model file by PyTorch, unless said otherwise; see that nothing was written to standard error."""
    command = [sys.executable, "-m", "resnetlab", "serve", model, "--port", 0, "--backend", "torch", *words]
    process = subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        said = process.stdout.readline().rstrip()
        if not said:
            process.wait(30)
            raise AssertionError(process.stderr.read())
        server = Served(process, said)
        with server.http:
            yield server
        if process.poll() is None:
            assert server.end() == 0
        loud = server.stderr()
        assert not clean or loud == ""
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


@contextmanager
def stopped(process: int) -> Iterator[None]:
    """Hold a process: it stands for one that is busy for as long as the test likes."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGCONT)


def problem(response: httpx.Response, status: int) -> str:
    """See that an answer is a problem of that status; return its detail."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == PROBLEM
    said = response.json()
    assert said["type"] == "about:blank"
    assert said["status"] == status
    assert said["title"]
    return said["detail"]


def until(holds: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it does not"
        time.sleep(0.02)


@contextmanager
def line(port: int) -> Iterator[socket.socket]:
    """Open a connection to speak HTTP by hand."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        yield connection


def heard(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Read one answer to its end: status, headers, body."""
    with connection.makefile("rb") as file:
        status = int(file.readline().split()[1])
        headers = {}
        while one := file.readline().strip():
            name, _, value = one.decode().partition(":")
            headers[name.lower()] = value.strip()
        return status, headers, file.read(int(headers.get("content-length", 0)))


def predictions(response: httpx.Response) -> tuple[str, list[tuple[str, float]]]:
    """Return label, and classes with their probabilities, of a good answer."""
    assert response.status_code == 200, response.text
    said = json.loads(response.content)
    return said["label"], [(one["class"], one["probability"]) for one in said["top"]]


def same(top: list[tuple[str, float]], expected: tuple[tuple[str, float], ...]) -> bool:
    """Say whether an answer is the expected one, whatever batch it went with."""
    close = [probability for _, probability in top] == pytest.approx(
        [probability for _, probability in expected], abs=CLOSE
    )
    return close and top[0][0] == expected[0][0]
