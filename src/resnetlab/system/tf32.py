"""Precision of fp32 convolutions and matrix products on NVIDIA GPUs: fp32, or TF32 with 10 of the 23 bits.

PyTorch computes convolutions in TF32 by default where the GPU can, so "fp32" would mean two things. Everything that
resnetlab calls fp32 runs inside `float32_products(tf32=False)`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def float32_products(*, tf32: bool) -> Iterator[None]:
    """Compute fp32 products in the body in fp32, or in TF32 where the GPU can; restore the settings afterwards.

    The settings are global and concern cuDNN's convolutions and cuBLAS's matrix products. Processors ignore them.
    """
    settings = _settings()
    before = [setting.fp32_precision for setting in settings]
    wanted = "tf32" if tf32 else "ieee"
    _set(settings, [wanted] * len(settings), before)
    try:
        yield
    finally:
        _set(settings, before, [setting.fp32_precision for setting in settings])


def _settings() -> tuple[Any, ...]:
    import torch  # not at the top: this room loads without PyTorch

    # The names that PyTorch 2.9 introduced; the older allow_tf32 warns, and must not be mixed with them.
    return torch.backends.cudnn.conv, torch.backends.cuda.matmul  # pyright: ignore[reportAttributeAccessIssue]


def _set(settings: tuple[Any, ...], wanted: list[str], present: list[str]) -> None:
    for setting, value, old in zip(settings, wanted, present, strict=True):
        if value != old:
            setting.fp32_precision = value
