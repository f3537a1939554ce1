"""Memory of a process that trains on the processor: freed blocks are kept for the next step.

glibc gives every large block back to the system at once, and gets it anew at the next step, page by page; with long
sequences that is up to a fifth of the time. Not for GPUs, whose memory PyTorch keeps anyway.
"""

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
MOST = 2**31 - 1
USERS = ("GLIBC_TUNABLES", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


def keep_freed_memory() -> bool:
    """Has malloc keep what is freed, from now on and in the whole process; returns whether it does.

    It cannot where the C library is not glibc, and does not where the user has set its variables.
    """
    if any(name in os.environ for name in USERS):
        return False
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  others have a mallopt that means something else
    except (AttributeError, OSError, TypeError):
        return False
    return bool(libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, MOST))
