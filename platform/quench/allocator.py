"""How the C library hands out memory, which decides a good part of an update's time on CPUs."""

from __future__ import annotations

import ctypes
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_LARGEST = 2**30


@cache
def keep_freed_memory() -> bool:
    """Let this process keep what it frees, up to its peak, for the next update; whether that could be arranged.

    An update frees its activations and the next asks for the same sizes. glibc gives large blocks back to the kernel,
    which clears every page of them anew: up to half of a small network's step. Other C libraries are left alone.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST) and mallopt(_TRIM_THRESHOLD, 2**31 - 1))
