"""fp32 on a GPU is fp32: the settings are as asked in the body, and as before afterwards."""

import threading
import warnings

import pytest
import torch

from resnetlab.system.tf32 import float32_products


def settings():
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


def set_both(convolutions, products):
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products


@pytest.fixture(autouse=True)
def unchanged():
    before = settings()
    yield
    set_both(*before)


@pytest.mark.parametrize("before", [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("asked", [False, True])
def test_set_and_restored(before, asked):
    set_both(*before)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with float32_products(tf32=asked):
            assert settings() == (asked, asked)
            with float32_products(tf32=not asked):
                assert settings() == (not asked, not asked)
            assert settings() == (asked, asked)
    assert settings() == before


def test_restored_after_an_error():
    before = settings()
    with pytest.raises(ValueError, match="stop"), float32_products(tf32=True):
        raise ValueError("stop")
    assert settings() == before


def test_as_a_decorator():
    @float32_products(tf32=False)
    def inside():
        return settings()

    before = settings()
    assert [inside(), inside()] == [(False, False)] * 2
    assert settings() == before


def test_threads_that_leave_in_another_order_restore_the_settings():
    set_both(True, True)
    entered, left = threading.Event(), threading.Event()

    def first():
        with float32_products(tf32=False):
            entered.set()
            assert left.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    assert entered.wait(10)
    second = float32_products(tf32=False)
    second.__enter__()
    left.set()
    thread.join(10)
    assert settings() == (False, False)
    second.__exit__(None, None, None)
    assert settings() == (True, True)


def test_a_network_is_exported_in_the_body():
    """`torch.export` reads the settings, and fails if they were set under two kinds of names."""
    with float32_products(tf32=False):
        torch.export.export(torch.nn.Conv2d(3, 4, 3), (torch.zeros(1, 3, 8, 8),))
