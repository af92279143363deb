"""Attempts that read from a network, repeated after growing delays while their errors may pass."""

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

RETRY_STATUSES = (408, 425, 429)
"""HTTP statuses below 500 after which another attempt may succeed."""
PERMANENT_STATUSES = (501, 505)
"""HTTP statuses from 500 on after which another attempt would fail as well."""


class FailedAttemptsError(Exception):
    """No attempt succeeded."""

    def __init__(self, error: Exception, reason: str, num_attempts: int, *, is_permanent: bool) -> None:
        super().__init__(reason)
        self.error = error
        """The error of the last attempt."""
        self.reason = reason
        self.num_attempts = num_attempts
        """Attempts since bytes arrived for the last time."""
        self.is_permanent = is_permanent
        """Whether another attempt would fail as well."""


def retry(
    attempt: Callable[[], T],
    *,
    errors: tuple[type[Exception], ...],
    is_permanent: Callable[[Exception], bool],
    describe: Callable[[Exception], str],
    delays_s: Sequence[float],
    log: Callable[[str, float, int], None],
    count_bytes: Callable[[], int] = lambda: 0,
    wait: Callable[[float], Any] = time.sleep,
) -> T:
    """Return the result of the first attempt that succeeds.

    Args:
        attempt: Called again after an error that may pass.
        errors: Exceptions after which `attempt` may be called again; others are raised as they are.
        is_permanent: Whether another attempt would fail as well.
        describe: Returns the reason of a failed attempt.
        delays_s: Seconds between attempts.
        log: Receives the reason, the seconds of the next delay, and the number of attempts so far.
        count_bytes: Returns how many bytes have arrived; when there are more, attempts count from the start again.
        wait: Waits for a number of seconds; a true result ends the attempts.

    Raises:
        FailedAttemptsError: if an error is permanent, or no attempt is left.
    """
    num_attempts = 0
    while True:
        before = count_bytes()
        try:
            return attempt()
        except errors as error:
            num_attempts = 1 if count_bytes() > before else num_attempts + 1
            failure = FailedAttemptsError(error, describe(error), num_attempts, is_permanent=is_permanent(error))
        if failure.is_permanent or num_attempts > len(delays_s):
            raise failure
        delay_s = delays_s[num_attempts - 1]
        log(failure.reason, delay_s, num_attempts)
        if wait(delay_s):
            raise failure


def is_refusal(status: int) -> bool:
    """Return whether a server that answers with an HTTP status would give the same answer again."""
    return status in PERMANENT_STATUSES or (status < 500 and status not in RETRY_STATUSES)


def describe_error(error: Exception, timeout_s: float) -> str:
    """Return a short description of an error of a network: its HTTP status, a timeout, or its own text."""
    status = getattr(error, "status", None)
    if isinstance(status, int):
        message = getattr(error, "message", None) or getattr(error, "reason", "")  # of aiohttp, and of urllib
        return f"HTTP {status} {message}".strip()
    if isinstance(error, TimeoutError):
        return f"no data for {timeout_s:g} s"
    return " ".join(str(error).split()) or type(error).__name__
