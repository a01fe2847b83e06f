"""Memory that a training process frees and wants again at the next step.

glibc hands large freed blocks back to the system, which clears them page by page when they are wanted again: thousands
of pages a step, a third of the time of a small convolutional network. Kept, they fragment: so all are handed back now
and then.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def keep_freed() -> None:
    """From here on, this process keeps what it frees, until `give_back`; with glibc only, else nothing happens."""
    if (libc := _glibc()) is not None:
        libc.mallopt(MMAP_THRESHOLD, 32 << 20)  # the most there is; larger blocks still go back at once
        libc.mallopt(TRIM_THRESHOLD, 1 << 30)


def give_back() -> None:
    """Hands what was freed back to the system, once."""
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


@cache
def _glibc() -> Any:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
