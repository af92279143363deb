"""Memory as training wants it: huge pages, and nothing handed back between steps. No torch here."""

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LARGEST = 1 << 25
"""Bytes; glibc takes no higher threshold."""


def use_huge_pages() -> None:
    """Have PyTorch's CPU tensors lie in huge pages that stay with this process; call it before PyTorch is loaded.

    A step makes and drops maps of megabytes. By default each comes in pages of 4 KiB that the kernel clears one by one,
    again and again: a fifth of the step of ResNet-20 (docs/log.md). An environment that says otherwise is left alone;
    where there is no glibc, nothing happens.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read by PyTorch at its first allocation
    if sys.platform != "linux" or "MALLOC_TRIM_THRESHOLD_" in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
