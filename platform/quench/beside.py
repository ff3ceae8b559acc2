"""Something done again and again beside something else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeatedly(work: Callable[[], object], seconds: float, name: str) -> Iterator[None]:
    """Do `work` every so many seconds, in a thread of that name, while the block runs; it is over when the block is."""
    over = threading.Event()

    def loop() -> None:
        while not over.wait(seconds):
            work()

    thread = threading.Thread(target=loop, name=f"quench-{name}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
