"""Waiting for what can be seen from outside a process: a file, a lock, a record."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any


def until(there: Callable[[], Any], process: subprocess.Popen[str] | None = None, seconds: float = 300) -> Any:
    """Returns the first truthy value of `there()`; fails when the process that should bring it about has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended = process is not None and process.poll() is not None
        if found := there():
            return found
        assert not ended, f"nothing found; the process ended with {process.returncode}"  # type: ignore[union-attr]
        time.sleep(0.02)
    raise AssertionError(f"nothing found in {seconds} s")
