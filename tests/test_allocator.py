"""Freed memory that stays with the process."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy
from quench.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        numpy.ones(64 * 2**20, dtype=numpy.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "keep":
    assert keep_freed_memory()
    faults()
print(faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_blocks_are_used_again_without_asking_the_kernel_for_their_pages() -> None:
    def faults(how: str) -> int:
        return int(subprocess.check_output([sys.executable, "-c", PROGRAM, how], text=True))

    assert faults("keep") < faults("plain") / 5
