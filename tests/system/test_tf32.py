"""fp32 on a GPU is fp32: the settings are as asked in the body, and as before afterwards."""

import warnings

import pytest
import torch

from resnetlab.system import tf32
from resnetlab.system.tf32 import float32_products

CONV, MATMUL = tf32._settings()


def settings():
    return torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision  # pyright: ignore


@pytest.fixture(autouse=True)
def unchanged():
    before = settings()
    yield
    CONV.fp32_precision, MATMUL.fp32_precision = before


@pytest.mark.parametrize("before", [("tf32", "ieee"), ("ieee", "tf32"), ("tf32", "tf32")])
@pytest.mark.parametrize(("asked", "inside"), [(False, "ieee"), (True, "tf32")])
def test_set_and_restored(before, asked, inside):
    CONV.fp32_precision, MATMUL.fp32_precision = before
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with float32_products(tf32=asked):
            assert settings() == (inside, inside)
            with float32_products(tf32=not asked):
                assert settings() != (inside, inside)
            assert settings() == (inside, inside)
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
    assert [inside(), inside()] == [("ieee", "ieee")] * 2
    assert settings() == before
