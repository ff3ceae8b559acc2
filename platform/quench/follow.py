"""Read runs' logs as they grow, and hand each new entry on: to the live table, to MLflow."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from quench.record import Entry, Record

Sink = Callable[[Record, list[Entry]], None]
"""Takes a run's new entries. If it raises, it is given them again later, with whatever has come since."""


class Follower:
    """Where each sink has got to in each log. Logs are the truth; a sink that fails loses nothing."""

    def __init__(self, records: Sequence[Record], sinks: Sequence[Sink]) -> None:
        self._offsets = {(record.directory, number): 0 for record in records for number in range(len(sinks))}
        self._records, self._sinks = records, sinks
        self.failures: dict[int, Exception] = {}
        """sink's number -> why it last failed; gone once it works again"""

    def pump(self) -> None:
        """Hand on what is new. A sink that fails is left alone until the next call."""
        for number, sink in enumerate(self._sinks):
            try:
                for record in self._records:
                    at = record.directory, number
                    entries, end = record.read(self._offsets[at])
                    if entries:
                        sink(record, entries)
                        self._offsets[at] = end
                self.failures.pop(number, None)
            except Exception as error:
                self.failures[number] = error


@contextmanager
def following(records: Sequence[Record], sinks: Sequence[Sink], every: float = 0.5) -> Iterator[Follower]:
    """Pump in a thread while the block runs, and once more when it is over."""
    follower, over = Follower(records, sinks), threading.Event()

    def loop() -> None:
        while not over.wait(every):
            follower.pump()

    thread = threading.Thread(target=loop, name="quench-follow", daemon=True)
    thread.start()
    try:
        yield follower
    finally:
        over.set()
        thread.join()
        follower.pump()
