"""SIGTERM and SIGINT, heeded at a moment when the state is whole."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

HEEDED = (signal.SIGTERM, signal.SIGINT)


class InterruptedRunError(BaseException):
    """The run was asked to stop; `signum` says by which signal, `status` is the exit status that says so.

    No `Exception`, like `KeyboardInterrupt`: what it breaks into must not take it for a failure of its own.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum
        self.status = 128 + signum


class StopSignal:
    """What asks a run to stop. As a context it takes over the signals; otherwise it never asks.

    The first signal is kept until `check` is called, or raised where it falls inside `at_once`. A second one ends the
    process there and then: what is on disk is whole at every moment.
    """

    def __init__(self, heeded: tuple[signal.Signals, ...] = HEEDED) -> None:
        self._heeded = heeded
        self.shared = False
        """Others must stop with this process: no signal breaks in, and `check` heeds it when all have `agreed`."""
        self.agreed = False
        self.signum: int | None = None
        self._at_once = True
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():  # Python allows it nowhere else
            for signum in self._heeded:
                self._before[signum] = signal.signal(signum, self._heed)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)  # pyright: ignore[reportArgumentType]  # what signal.signal gave us
        self._before.clear()

    def check(self) -> None:
        """Raise where a signal has come.

        Raises:
            InterruptedRunError: naming the signal.
        """
        if self.signum is not None and (self.agreed or not self.shared):
            raise InterruptedRunError(self.signum)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Keep a signal for the next `check`: the body must not be torn."""
        before, self._at_once = self._at_once, False
        try:
            yield
        finally:
            self._at_once = before

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let a signal break into the body, which changes nothing that is kept; not where others must stop too."""
        before, self._at_once = self._at_once, True
        try:
            self.check()
            yield
        finally:
            self._at_once = before

    def _heed(self, signum: int, _frame: FrameType | None) -> None:
        if self.signum is not None:
            os._exit(128 + signum)
        self.signum = signum
        if self._at_once and not self.shared:
            raise InterruptedRunError(signum)
