"""`--processes N`: run a command in several processes on this machine that share the work, as torchrun would."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from types import FrameType

from resnetlab.config import ConfigError
from resnetlab.system.cores import usable_cores
from resnetlab.system.python_command import python_module

STARTED = "RESNETLAB_LOCAL_PROCESSES"
"""Environment variable of the processes that were started here."""
GRACE_S = 30.0
"""Seconds that the first process has to end after another one has failed, and the others after the first."""
PR_SET_PDEATHSIG = 1
FORWARDED = (signal.SIGTERM, signal.SIGINT, *((signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()))


def needs_processes(num_processes: int) -> bool:
    """Return whether the command must start processes: it is asked for several, and is not one of them.

    Raises:
        ConfigError: if the number is out of range, or torchrun has started this process.
    """
    if num_processes < 1:
        raise ConfigError(f"processes must be at least 1, not {num_processes}")
    if num_processes > 1 and STARTED not in os.environ and "WORLD_SIZE" in os.environ:
        raise ConfigError("--processes starts processes itself; omit it under torchrun")
    return num_processes > 1 and STARTED not in os.environ


def run_processes(num_processes: int, words: Sequence[str]) -> int:
    """Run `resnetlab WORDS` in several processes, and return the exit status of the first.

    Each process has its share of the cores. SIGTERM, SIGINT and SIGHUP are sent on to all of them. If this process is
    killed, they get SIGTERM.
    """
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    threads = str(max(1, usable_cores() // num_processes))
    common = {
        "OMP_NUM_THREADS": threads,
        **os.environ,
        STARTED: str(num_processes),
        "TORCHELASTIC_RUN_ID": "local",  # an error that all of them have is printed by the first alone
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(num_processes),
        "LOCAL_WORLD_SIZE": str(num_processes),
    }
    processes: list[subprocess.Popen[bytes]] = []

    def forward(signum: int, _frame: FrameType | None) -> None:
        for process in processes:
            process.send_signal(signum)  # nothing if it has ended

    ignored = [number for number in FORWARDED if signal.getsignal(number) == signal.SIG_IGN]
    previous = {number: signal.signal(number, forward) for number in FORWARDED if number not in ignored}
    try:
        processes.extend(_start(words, common, rank) for rank in range(num_processes))
        return _wait(processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for number, handler in previous.items():
            signal.signal(number, handler)


def _start(words: Sequence[str], environment: Mapping[str, str], rank: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*python_module("resnetlab"), *words],
        env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        start_new_session=True,  # Ctrl-C reaches them once, from here
        preexec_fn=end_with_parent if sys.platform == "linux" else None,
    )


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait for the first process, and return its exit status; a process that fails leaves the first one `GRACE_S`.

    The first one names the process that failed, unless it still waits for all of them to start.
    """
    first, *others = processes
    failed_at = None
    while first.poll() is None:
        time.sleep(0.05)
        if failed_at is None and any(process.poll() for process in others):
            failed_at = time.monotonic()
        if failed_at is not None and time.monotonic() - failed_at > GRACE_S:
            first.terminate()
            failed_at = float("inf")
    deadline = time.monotonic() + (0 if first.returncode in (1, 2) else GRACE_S)
    while time.monotonic() < deadline and any(process.poll() is None for process in others):
        time.sleep(0.05)
    status = first.returncode
    return 128 - status if status < 0 else status


def end_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent dies."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
