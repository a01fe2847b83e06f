"""Files that are whole or absent, and locks that end with their process."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LARGEST = 1 << 26  # bytes of a JSON file


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all: a temporary file beside it, fsync, rename."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes JSON with a checksum of itself, whole or not at all."""
    content = {**content, "sha256": _digest(content)}
    write_bytes(path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """What `write_json` wrote, or None where there is no file; `ValueError` for a damaged one."""
    try:
        content = json.loads(read_bytes(path, LARGEST))
        written = content.pop("sha256")
        right = written == _digest(content)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise ValueError(f"{path} is damaged: delete it and run again") from None
    if not right:
        raise ValueError(f"{path} has been altered (its checksum does not fit): delete it and run again")
    return content


def read_bytes(path: Path, most: float = math.inf) -> bytes:
    """What a file holds; `ValueError` for one larger than `most` bytes, or that is no regular file (a pipe hangs)."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode) or about.st_size > most:
            raise ValueError(f"{path} is no regular file of at most {most} bytes")
        return file.read()


def sha256(path: Path) -> str:
    """The checksum of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Holds a file's lock; `waiting` is called while another process has it. The kernel frees it with its process."""
    with open(path, "a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waiting()
                time.sleep(0.2)
        yield


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
