"""The first signal waits for a whole state; the second one does not wait."""

import os
import signal
import subprocess
import sys

import pytest

from resnetlab.training.signal_handling import InterruptedRunError, StopSignal


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_waits_for_the_check(signum, status):
    before = signal.getsignal(signum)
    with StopSignal() as stop_signal:
        with stop_signal.deferred():
            os.kill(os.getpid(), signum)
            reached = True
            with pytest.raises(InterruptedRunError, match=f"stopped by {signum.name}") as caught:
                stop_signal.check()
        assert reached
        assert caught.value.status == status
    assert signal.getsignal(signum) == before


def test_a_signal_breaks_into_what_may_be_torn():
    def torn():
        with stop_signal.immediate():
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("not reached")

    with StopSignal() as stop_signal, stop_signal.deferred(), pytest.raises(InterruptedRunError):
        torn()


def test_one_that_came_before_breaks_in_too():
    with StopSignal() as stop_signal, stop_signal.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(InterruptedRunError), stop_signal.immediate():
            raise AssertionError("not reached")


def test_the_second_signal_ends_the_process():
    code = (
        "import os, signal, time; from resnetlab.training.signal_handling import StopSignal\n"
        "with StopSignal() as i, i.deferred():\n"
        "    os.kill(os.getpid(), signal.SIGTERM); print('first', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT); print('second', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, "first\n")


def test_without_a_context_nothing_is_heeded():
    before = signal.getsignal(signal.SIGTERM)
    StopSignal().check()
    assert signal.getsignal(signal.SIGTERM) == before


def test_nohup_stays_in_force():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as stop_signal:
            os.kill(os.getpid(), signal.SIGHUP)
            stop_signal.check()
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
