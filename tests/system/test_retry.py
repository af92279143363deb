"""Attempts are repeated while their errors may pass."""

from types import SimpleNamespace

import pytest

from resnetlab.system.retry import FailedAttemptsError, describe_error, is_refusal, retry


def run(outcomes, *, sizes=(), delays_s=(1.0, 2.0), wait=lambda _: None):
    """Return the result of `retry` over outcomes in turn, and what it logged; `sizes` are the bytes that arrived."""
    left, arrived, logged = list(outcomes), iter(sizes), []

    def attempt():
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    result = retry(
        attempt,
        errors=(OSError,),
        is_permanent=lambda error: isinstance(error, PermissionError),
        describe=str,
        delays_s=delays_s,
        log=lambda *line: logged.append(line),
        count_bytes=lambda: next(arrived, 0),
        wait=wait,
    )
    return result, logged


def test_the_first_success_is_returned():
    assert run(["file"]) == ("file", [])
    assert run([OSError("slow"), OSError("lost"), "file"]) == ("file", [("slow", 1.0, 1), ("lost", 2.0, 2)])


def test_the_last_error_is_raised():
    with pytest.raises(FailedAttemptsError, match="third") as failure:
        run([OSError("first"), OSError("second"), OSError("third"), "file"])
    assert (failure.value.num_attempts, failure.value.is_permanent) == (3, False)


def test_a_permanent_error_ends_the_attempts():
    with pytest.raises(FailedAttemptsError, match="no entry") as failure:
        run([OSError("lost"), PermissionError("no entry"), "file"])
    assert failure.value.is_permanent
    with pytest.raises(KeyError):  # an error of the program, not of the network
        run([KeyError("bug"), "file"])


def test_attempts_count_again_after_bytes_arrived():
    sizes = (0, 5, 5, 9, 9, 12)  # before and after each attempt
    result, logged = run([OSError("lost")] * 3 + ["file"], sizes=sizes, delays_s=(1.0,))
    assert result == "file"
    assert logged == [("lost", 1.0, 1)] * 3


def test_waiting_may_be_ended():
    with pytest.raises(FailedAttemptsError, match="lost"):
        run([OSError("lost"), "file"], wait=lambda _: True)


@pytest.mark.parametrize(
    ("status", "refused"),
    [(400, True), (404, True), (408, False), (429, False), (500, False), (501, True), (503, False), (520, False)],
)
def test_statuses(status, refused):
    assert is_refusal(status) == refused


def test_descriptions():
    aiohttp_error = Exception("0, message='Bad Gateway'")
    vars(aiohttp_error).update(SimpleNamespace(status=502, message="Bad Gateway").__dict__)
    assert describe_error(aiohttp_error, 30.0) == "HTTP 502 Bad Gateway"
    assert describe_error(TimeoutError(), 0.5) == "no data for 0.5 s"
    assert describe_error(OSError("two\nlines"), 1.0) == "two lines"
    assert describe_error(OSError(), 1.0) == "OSError"
