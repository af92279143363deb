"""Start a real `resnetlab serve` on a free port of this machine, and send HTTP requests to it."""

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

PROBLEM_MEDIA_TYPE = "application/problem+json"
PROBABILITY_TOLERANCE = 1e-4
"""Largest difference between probabilities that were computed in batches of different sizes."""


class RunningServer:
    """A server process and an HTTP client for it."""

    def __init__(self, process: subprocess.Popen[str], ready_line: str) -> None:
        self.process = process
        self.ready_line = ready_line
        match = re.search(r"on (http://\S+:(\d+)/)$", ready_line)
        assert match is not None, ready_line
        self.url, self.port = match[1], int(match[2])
        self.http = httpx.Client(base_url=self.url, timeout=60)
        self._stderr_lines: list[str] = []
        self._stderr_thread = threading.Thread(target=self._read_stderr, daemon=True)
        self._stderr_thread.start()

    def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        self._stderr_lines.extend(self.process.stderr)

    def post(self, data: Any, path: str = "/v1/predict", **query: Any) -> httpx.Response:
        return self.http.post(path, content=data, params=query)

    def worker_pid(self) -> int:
        """Return the process id of the worker, 0 if there is none."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0]) if children else 0

    def metric(self, name: str) -> float:
        """Return the value of a metric (name with labels) from `/metrics`, 0 if it is missing."""
        for line in self.http.get("/metrics").text.splitlines():
            if line.startswith(name + " "):
                return float(line.rpartition(" ")[2])
        return 0.0

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """Send a signal; return the exit status."""
        self.process.send_signal(signum)
        return self.process.wait(30)

    def stderr(self) -> str:
        """Return the standard error of the process after its exit, without the lines at its start and its end."""
        lines = self.all_stderr().splitlines(keepends=True)
        return "".join(line for line in lines if not line.startswith(("resnetlab: loading ", "resnetlab: stopped; ")))

    def all_stderr(self) -> str:
        """Return the whole standard error of the process after its exit."""
        self._stderr_thread.join(10)
        return "".join(self._stderr_lines)


@contextmanager
def run_server(
    model: Path, *options: object, expect_empty_stderr: bool = True, **environment: str
) -> Iterator[RunningServer]:
    """Serve a model file, with PyTorch unless `options` name another backend."""
    command = [sys.executable, "-m", "resnetlab", "serve", model, "--port", 0, "--backend", "torch", *options]
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
        ready_line = process.stdout.readline().rstrip()
        if not ready_line:
            process.wait(30)
            raise AssertionError(process.stderr.read())
        server = RunningServer(process, ready_line)
        with server.http:
            yield server
        if process.poll() is None:
            assert server.stop() == 0
        stderr = server.stderr()
        assert not expect_empty_stderr or stderr == ""
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


@contextmanager
def paused(pid: int) -> Iterator[None]:
    """Pause a process (SIGSTOP) inside the context; it stands for a busy or hung one."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def problem_detail(response: httpx.Response, status: int) -> str:
    """Assert that a response has this status and valid problem details; return their `detail`."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == PROBLEM_MEDIA_TYPE
    problem = response.json()
    assert problem["type"] == "about:blank"
    assert problem["status"] == status
    assert problem["title"]
    return problem["detail"]


def wait_until(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"the condition is still false after {timeout_s:g} s"
        time.sleep(0.02)


@contextmanager
def open_connection(port: int) -> Iterator[socket.socket]:
    """Open a TCP connection, to send requests byte by byte."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        yield connection


def read_response(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Read one response and return status, headers and body."""
    with connection.makefile("rb") as file:
        status = int(file.readline().split()[1])
        headers = {}
        while line := file.readline().strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        return status, headers, file.read(int(headers.get("content-length", 0)))


def parse_prediction(response: httpx.Response) -> tuple[str, list[tuple[str, float]]]:
    """Assert that a response has status 200; return its label, and its classes with probabilities."""
    assert response.status_code == 200, response.text
    content = json.loads(response.content)
    return content["label"], [(entry["class"], entry["probability"]) for entry in content["top"]]


def same_top(top: list[tuple[str, float]], expected: tuple[tuple[str, float], ...]) -> bool:
    """Return whether two predictions agree; probabilities may differ by what the batch size changes."""
    expected_probabilities = [probability for _, probability in expected]
    close = [probability for _, probability in top] == pytest.approx(expected_probabilities, abs=PROBABILITY_TOLERANCE)
    return close and top[0][0] == expected[0][0]
