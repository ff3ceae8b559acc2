"""Processes that tests start in order to do something to them."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from quench.errors import Superseded


def fork(work: Callable[[], object]) -> int:
    """The id of a process that does `work`; it exits with 0, or 3 if it is superseded, or 1 if anything else happens."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except Superseded:
            code = 3
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def exit_code(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def workers_of(driver: int) -> list[int]:
    """The Ray Train workers in the cluster that process `driver` has started, the oldest first."""
    parents, workers = {}, []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            pid, stat = int(place.name), (place / "stat").read_text()
            parents[pid] = int(stat.rpartition(")")[2].split()[1])
            if b"RayTrainWorker" in (place / "cmdline").read_bytes():
                workers.append(pid)

    def within(pid: int) -> bool:
        return pid == driver or (pid in parents and within(parents[pid]))

    return sorted(filter(within, workers))
