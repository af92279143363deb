"""Run commands in processes forked from one that has imported torch and the libraries that commands load with it.

The imports take seconds: more than most commands of tests compute.

A forked command is a process of its own: its own folder, environment, output files, warnings as errors, and exit
status. Only the imports are shared. The server computes nothing, so it has no threads that a fork would lose.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

READ_AT_IMPORT = ("OMP", "KMP", "MKL", "GOMP", "PYTHON", "LD_", "TORCH", "MALLOC", "MPL", "JOBLIB")
"""Prefixes of variables that Python or a library reads when it is loaded: such a command needs a new interpreter."""

SERVER = """
import gc, json, os, runpy, signal, sys, warnings

os.environ.update(MPLBACKEND="agg", JOBLIB_MULTIPROCESSING="0")  # as `main` sets them before these are loaded
import torch, torch.distributed, torch.utils.data, rich.console, rich.progress, tyro, safetensors.torch, PIL.Image
import torch._dynamo, sympy, scipy.stats, sklearn.datasets, matplotlib.figure, jinja2

gc.collect()
gc.freeze()  # a command's collector, above all that at its end, passes over what was loaded here

for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if child == 0:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    raise SystemExit
os.chdir(request["cwd"])
os.environ.clear()
os.environ.update(request["environment"])
for number, path in enumerate((os.devnull, request["stdout"], request["stderr"])):
    opened = os.open(path, os.O_RDWR)
    os.dup2(opened, number)
    os.close(opened)
signal.setitimer(signal.ITIMER_REAL, request["timeout"])
is_code = request["module"] == "-c"
sys.argv = ["-c"] if is_code else [request["module"], *request["words"]]
if is_code:
    exec(request["words"][0])
    raise SystemExit
if request["module"] != "resnetlab":
    warnings.simplefilter("default")
runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
"""


@cache
def _server() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def needs_new_interpreter(environment: Mapping[str, str]) -> bool:
    """Return whether a command's environment differs from this process's in what is read at import."""
    names = {name for name in {*environment, *os.environ} if name.startswith(READ_AT_IMPORT)}
    return any(environment.get(name) != os.environ.get(name) for name in names)


def run_forked(
    words: Sequence[str],
    *,
    cwd: Path | None,
    environment: Mapping[str, str],
    timeout: float,
    module: str = "resnetlab",
) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE WORDS` in a forked process, and return its exit status and output.

    With `-c` for the module, the word is Python code, which runs as `python -c` runs it.
    Warnings of other modules than `resnetlab` are no errors: torchrun's own are not ours.

    Raises:
        TimeoutExpired: After `timeout` seconds.
    """
    server = _server()
    assert server.stdin
    assert server.stdout
    with tempfile.NamedTemporaryFile() as stdout, tempfile.NamedTemporaryFile() as stderr:
        request = {
            "module": module,
            "words": [*words],
            "cwd": str(cwd or Path.cwd()),
            "environment": dict(environment),
            "stdout": stdout.name,
            "stderr": stderr.name,
            "timeout": timeout,
        }
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        if status == -signal.SIGALRM:
            raise subprocess.TimeoutExpired([module, *words], timeout, stdout.read(), stderr.read())
        return subprocess.CompletedProcess([module, *words], status, stdout.read().decode(), stderr.read().decode())
