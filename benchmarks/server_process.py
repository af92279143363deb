"""Run `resnetlab serve` on a free port of this machine, and read its memory."""

import http.client
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class RunningServer:
    """A server process."""

    def __init__(self, process: subprocess.Popen[str], ready_line: str) -> None:
        match = re.search(r":(\d+)/$", ready_line)
        if match is None:
            sys.exit(f"the server did not start: {ready_line}")
        self.process = process
        self.port = int(match[1])

    def memory_mib(self) -> float:
        """Return the resident memory of the process and its descendants in MiB."""
        pids, total_kib = [self.process.pid], 0
        while pids:
            pid = pids.pop()
            try:
                pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
                status = Path(f"/proc/{pid}/status").read_text()
            except FileNotFoundError:  # the process has just exited
                continue
            total_kib += int(status.partition("VmRSS:")[2].split()[0])
        return total_kib / 1024

    def get_json(self, path: str) -> dict:
        """Return the JSON response to a GET request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.request("GET", path)
        content = json.load(connection.getresponse())
        connection.close()
        return content


@contextmanager
def run_server(model: Path, backend: str) -> Iterator[RunningServer]:
    """Serve a model on a free port of this machine."""
    command = [sys.executable, "-m", "resnetlab", "serve", str(model), "--backend", backend, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield RunningServer(process, process.stdout.readline().strip())
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
