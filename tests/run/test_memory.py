"""Memory that is wanted again is not cleared by the system each time."""

import subprocess
import sys

import pytest

COUNT = """
import ctypes, resource, sys
from pliant.run.memory import give_back, keep_freed
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [ctypes.c_void_p(libc.malloc(size << 20)) for size in (3, 20, 1)]
    for size, block in zip((3, 20, 1), blocks):
        ctypes.memset(block, 1, size << 20)
    for block in blocks:
        libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed()
first, second = faults(), faults()
give_back()
print(first, second, faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_what_is_freed_is_kept_until_it_is_given_back():
    """24 MB are 6,144 pages of 4 KiB; a few more are Python's own."""
    run = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    first, kept, given_back = map(int, run.stdout.split())
    assert kept < 100 < 1000 < min(first, given_back)
