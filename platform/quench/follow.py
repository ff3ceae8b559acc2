"""Read runs' logs as they grow, and hand each new entry on: to the live table, to MLflow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from quench.beside import repeatedly
from quench.errors import one_line
from quench.journal import Entry
from quench.record import Record
from quench.standing import FINAL

Sink = Callable[[Record, list[Entry]], None]
"""Takes a run's new entries. If it raises, it is given them again later, with whatever has come since."""


class Follower:
    """Where a sink has got to in each log. Logs are the truth; a sink that fails loses nothing.

    Of a list, the logs of runs that are added later too; however often a run is named, it is followed once, and to its
    end: of a thousand runs only those that are under way are looked at.
    """

    def __init__(self, records: Sequence[Record], sink: Sink) -> None:
        self._records, self._sink, self._named = records, sink, 0
        self._offsets: dict[Record, int] = {}
        """of the logs that may come to say more"""
        self._over: set[Record] = set()
        self.failures: dict[Record, str] = {}
        """runs whose entries the sink failed to take at the last try, and why"""

    def pump(self) -> None:
        """Hand on what is new: first of the runs that made no trouble, so that one does not hold up the rest.

        After the second failure the sink itself is taken to be down, and left alone until the next call.
        """
        new = self._records[self._named :]
        self._named += len(new)
        self._offsets |= {record: 0 for record in new if record not in self._offsets and record not in self._over}
        failed = 0
        for record in sorted(self._offsets, key=lambda record: record in self.failures):
            try:
                entries, end = record.read(self._offsets[record])
                if entries:
                    self._sink(record, entries)
                    self._offsets[record] = end
                if any(entry["kind"] == "status" and entry["status"] in FINAL for entry in entries):
                    del self._offsets[record]
                    self._over.add(record)
                self.failures.pop(record, None)
            except Exception as error:
                self.failures[record] = one_line(error)
                failed += 1
                if failed == 2:
                    return


@contextmanager
def following(
    records: Sequence[Record], sinks: Mapping[str, Sink], every: float = 0.5
) -> Iterator[dict[str, Follower]]:
    """Pump each sink in a thread of its own while the block runs, and once more when it is over."""
    followers = {name: Follower(records, sink) for name, sink in sinks.items()}
    with ExitStack() as stack:
        for name, follower in followers.items():
            stack.callback(follower.pump)
            stack.enter_context(repeatedly(follower.pump, every, name))
        yield followers
