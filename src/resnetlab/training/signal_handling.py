"""SIGTERM, SIGINT and SIGHUP: requests to stop, handled at a moment when the state of the run is whole."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

HANDLED_SIGNALS = (signal.SIGTERM, signal.SIGINT, *((signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()))
"""The signals of `kill`, of Ctrl-C, and of a terminal that is closed."""


class InterruptedRunError(BaseException):
    """The run was asked to stop by the signal `signum`; `status` is the matching exit status (128 + signum).

    Like `KeyboardInterrupt` it is no `Exception`, so that code which handles failures does not catch it.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum
        self.status = 128 + signum


class StopSignal:
    """A request to stop a run. As a context manager it installs signal handlers; without them it never asks.

    An ignored SIGHUP stays ignored: `nohup` sets it so that the run outlives its terminal.

    The first signal is stored until `check` is called, or raised at once inside `immediate`. A second signal ends the
    process at once: files on disk are whole at every moment.
    """

    def __init__(self, handled: tuple[signal.Signals, ...] = HANDLED_SIGNALS) -> None:
        self._handled = handled
        self.shared = False
        """Whether other processes must stop with this one: then `check` raises only after all have `agreed`."""
        self.agreed = False
        self.signum: int | None = None
        self._immediate = True
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            for signum in self._handled:
                if signum.name == "SIGHUP" and signal.getsignal(signum) == signal.SIG_IGN:
                    continue
                self._previous[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)  # pyright: ignore[reportArgumentType]  # what signal.signal returned
        self._previous.clear()

    def check(self) -> None:
        """Raise if a signal has arrived, and, in a shared run, if all processes know it.

        Raises:
            InterruptedRunError: naming the signal.
        """
        if self.signum is not None and (self.agreed or not self.shared):
            raise InterruptedRunError(self.signum)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Store a signal for the next `check`: the body must not be interrupted."""
        before, self._immediate = self._immediate, False
        try:
            yield
        finally:
            self._immediate = before

    @contextmanager
    def immediate(self) -> Iterator[None]:
        """Let a signal interrupt the body, which must change no state; in a shared run it is stored instead."""
        before, self._immediate = self._immediate, True
        try:
            self.check()
            yield
        finally:
            self._immediate = before

    def _handle(self, signum: int, _frame: FrameType | None) -> None:
        if self.signum is not None:
            os._exit(128 + signum)
        self.signum = signum
        if self._immediate and not self.shared:
            raise InterruptedRunError(signum)
