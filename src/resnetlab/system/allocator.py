"""Settings of the CPU memory allocator: huge pages, and no memory returned to the kernel between steps."""

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
MAX_MMAP_THRESHOLD = 1 << 25
"""Bytes; glibc accepts no higher threshold."""


def use_huge_pages() -> None:
    """Place PyTorch's CPU tensors in huge pages that stay with this process. Call it before PyTorch is imported.

    Each step allocates and frees feature maps of several megabytes. By default the kernel provides them in pages of
    4 KiB and clears each page every time, which takes a fifth of the step of ResNet-20 (docs/log.md).
    Environment variables that the user has set take precedence. Without glibc only PyTorch's variable is set.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # PyTorch reads it at its first allocation
    if sys.platform != "linux" or "MALLOC_TRIM_THRESHOLD_" in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, MAX_MMAP_THRESHOLD)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
