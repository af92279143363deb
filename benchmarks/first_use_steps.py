"""The steps of `first_use.py`: each runs a command in the folder of a walk, and prints a line about it."""

import http.client
import json
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from server_process import RunningServer
from timed_command import LIMIT_S, TimedCommand, killed_after, run_timed

RESNETLAB = ("-m", "resnetlab")
STOP_LIMIT_S = 30
"""Seconds in which the server must exit after SIGTERM."""
NUM_LAST_LINES = 15
"""Lines of a failed step that are printed."""


class StepError(Exception):
    """A step failed; the message has its command, its exit status and its last lines."""


@dataclass(frozen=True)
class Walk:
    """The folder of a walk, and the Python that runs its steps."""

    folder: Path
    python: str
    env: dict[str, str]

    def run(self, step: str, words: Sequence[str]) -> TimedCommand:
        """Run Python with these words to its end.

        Raises:
            StepError: if the exit status is not 0.
        """
        done = run_timed([self.python, *words], cwd=self.folder, env=self.env)
        if done.status:
            last = "\n".join(line for _, line in done.lines[-NUM_LAST_LINES:])
            raise StepError(
                f"{step} FAILED with exit status {done.status}: {shlex.join([self.python, *words])}\n{last}"
            )
        return done

    def has(self, package: str) -> bool:
        """Return whether the Python of the walk can find a package."""
        code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
        return subprocess.run([self.python, "-c", code], env=self.env, check=False).returncode == 0


def copy(walk: Walk, photos: Path) -> None:
    """Copy the photographs."""
    start_s = time.monotonic()
    shutil.copytree(photos, walk.folder / "photos")
    num_files = sum(path.is_file() for path in (walk.folder / "photos").rglob("*"))
    record("copy", time.monotonic() - start_s, None, f"{num_files:,} files")


def train(walk: Walk, words: Sequence[str], also: Sequence[str] = ()) -> str:
    """Train, and print when its output appeared; return the run directory that it names.

    Args:
        walk: Where it runs.
        words: The words after Python.
        also: Beginnings of other lines to print; each must be there.

    Raises:
        StepError: if it fails, or a line is missing.
    """
    done = walk.run("train", words)
    record("train", done.time_s, done.peak_mib, printed(done, "errors:"))
    silence_s, before = done.longest_silence()
    first_step = done.find("step ")
    moments = [
        f"first line {done.lines[0][0]:.1f} s",
        f"first step {first_step[0]:.1f} s" if first_step else "no line of a step",
        f"longest silence {silence_s:.1f} s, after: {before or 'the start'}",
    ]
    record("", None, None, "; ".join(moments))
    for prefix in (*also, "how ", "time ", "kept:"):
        record("", None, None, printed(done, prefix))
    return str(Path(printed(done, "model file: ").removeprefix("model file: ")).parent)


def export(walk: Walk, run_dir: str) -> None:
    """Export to ONNX, or without its packages to torch.export."""
    kind = "onnx" if all(map(walk.has, ("onnx", "onnxscript", "onnxruntime"))) else "torch-export"
    done = walk.run("export", [*RESNETLAB, "export", run_dir, "--format", kind])
    record("export", done.time_s, done.peak_mib, printed(done, "network"))
    record("", None, None, printed(done, "logits"))


def serve(walk: Walk, run_dir: str, image: str) -> None:
    """Serve, send one image, and stop the server by SIGTERM.

    Raises:
        StepError: if the server does not start, does not answer, or exits with another status than 0.
    """
    command, errors = [walk.python, *RESNETLAB, "serve", run_dir, "--port", "0"], walk.folder / "serve.txt"
    start_s = time.monotonic()
    with (
        errors.open("w") as stderr,
        subprocess.Popen(
            command, cwd=walk.folder, env=walk.env, stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as process,
        killed_after(process.pid, LIMIT_S),
    ):
        assert process.stdout
        try:
            ready = process.stdout.readline().strip()
            ready_s = time.monotonic() - start_s
            if not ready:
                raise StepError(f"serve FAILED: it ended before it was ready\n{errors.read_text()}")
            server = RunningServer(process, ready)
            latency_s, answer = post(server.port, walk.folder / image)
            memory_mib = server.memory_mib()
        finally:
            stop_start_s = time.monotonic()
            process.send_signal(signal.SIGTERM)
            with killed_after(process.pid, STOP_LIMIT_S):
                status = process.wait()
        stop_s = time.monotonic() - stop_start_s
    record("serve", ready_s, memory_mib, f"ready: {ready}")
    record("request", latency_s, None, answer)
    record("stop", stop_s, None, f"SIGTERM: exit status {status}")
    if status:
        raise StepError(f"serve FAILED with exit status {status} after SIGTERM\n{errors.read_text()}")


def post(port: int, image: Path) -> tuple[float, str]:
    """Send an image; return the seconds until the answer was read, and its most probable class.

    Raises:
        StepError: if the status is not 200.
    """
    body, start_s = image.read_bytes(), time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/v1/predict", body)
    response = connection.getresponse()
    content = response.read()
    latency_s = time.monotonic() - start_s
    connection.close()
    if response.status != 200:
        raise StepError(f"request FAILED with status {response.status}: {content.decode(errors='replace')}")
    answer = json.loads(content)
    return latency_s, f"{answer['label']} {100 * answer['probability']:.1f} %"


# ---- the record


def printed(done: TimedCommand, prefix: str) -> str:
    """Return the first line with a prefix, with single spaces.

    Raises:
        StepError: if the command printed none.
    """
    found = done.find(prefix)
    if found is None:
        raise StepError(f"no line begins with {prefix!r}:\n" + "\n".join(line for _, line in done.lines))
    return " ".join(found[1].split())


def record(step: str, time_s: float | None, memory_mib: float | None, text: str) -> None:
    """Print a line: step, seconds, memory, and what the step gave."""
    seconds = "" if time_s is None else f"{time_s:.2f} s" if time_s < 1 else f"{time_s:.1f} s"
    memory = "" if memory_mib is None else f"{memory_mib:,.0f} MiB"
    print(f"{step:<9}{seconds:>8}{memory:>11}  {text}", flush=True)
