"""What this process asks of the machine before it computes."""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h of glibc


@lru_cache(maxsize=1)
def keep_freed_memory() -> bool:
    """Let the C library keep what a step frees for the next one; True where it does so from now on.

    glibc gives blocks of more than 128 KiB back to the kernel when they are freed, and every activation of a network is
    such a block: thousands of page faults a step, a quarter of the time of a small U-Net. The most memory ever used
    stays the same; it is given back when the process ends. Where MALLOC_TRIM_THRESHOLD_ or MALLOC_MMAP_THRESHOLD_ is
    set in the environment, that choice stands; other C libraries are left as they are.
    """
    if {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & set(os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # not glibc: macOS, Windows, musl
        return False
    large = mallopt(M_MMAP_THRESHOLD, 1 << 30) or mallopt(M_MMAP_THRESHOLD, 32 << 20)  # older ones take 32 MiB at most
    return bool(large and mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1) and mallopt(M_TOP_PAD, 64 << 20))
