"""Precision of fp32 convolutions and matrix products on NVIDIA GPUs: fp32, or TF32 with 10 of the 23 bits.

PyTorch computes convolutions in TF32 by default where the GPU can, so "fp32" would mean two things. Everything that
resnetlab calls fp32 runs inside `float32_products(tf32=False)`.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_LOCK = threading.Lock()
_ENTERED: list[tuple[object, bool]] = []
"""A token and the setting of each body that is being executed, in any thread."""
_BEFORE: list[tuple[bool, bool]] = []
"""The settings before the first of them."""


@contextmanager
def float32_products(*, tf32: bool) -> Iterator[None]:
    """Compute fp32 products in the body in fp32, or in TF32 where the GPU can; restore the settings afterwards.

    The settings are global and concern cuDNN's convolutions and cuBLAS's matrix products. Processors ignore them. If
    several threads have a body, the last to enter decides, and the last to leave restores what was before the first.
    """
    token = object()
    with _LOCK:
        if not _ENTERED:
            _BEFORE[:] = [_settings()]
        _ENTERED.append((token, tf32))
        _apply((tf32, tf32))
    try:
        yield
    finally:
        with _LOCK:
            _ENTERED[:] = [entry for entry in _ENTERED if entry[0] is not token]
            _apply((_ENTERED[-1][1], _ENTERED[-1][1]) if _ENTERED else _BEFORE[0])


def _settings() -> tuple[bool, bool]:
    """Return whether cuDNN and cuBLAS may compute in TF32."""
    import torch  # not at the top: this room loads without PyTorch

    # Not the names of PyTorch 2.9 (`fp32_precision`): once they are set, `torch.export` fails to read the older ones.
    return bool(torch.backends.cudnn.allow_tf32), bool(torch.backends.cuda.matmul.allow_tf32)


def _apply(settings: tuple[bool, bool]) -> None:
    import torch

    if settings != _settings():
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = settings
