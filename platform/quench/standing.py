"""How a run stands: what its log comes to, kept up with as the log grows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from quench import journal
from quench.journal import Entry

Status = Literal["waiting", "running", "finished", "stopped", "catastrophic_overfitting", "interrupted", "failed"]
"""stopped is a scheduler's decision; interrupted and failed runs can be resumed, the others that ended are final"""
FINAL: frozenset[Status] = frozenset({"finished", "stopped", "catastrophic_overfitting"})
ENDED: frozenset[Status] = frozenset((*FINAL, "interrupted", "failed"))


class Standing(NamedTuple):
    """What the first `read` bytes of a log come to.

    Every epoch asks for it several times: to read all of the log for each answer would cost the square of the epochs.
    """

    read: int = 0
    status: Status = "waiting"
    since: int | None = None
    """when it said so, in milliseconds since 1970"""
    attempt: str | None = None
    """that the run is in the hands of"""
    epoch: int = 0
    """the latest one entered"""
    robust: float = -1.0
    """the highest robust accuracy of an epoch, on the held-out images"""

    def by_now(self, log: Path) -> Standing:
        """With what the log has come to say since. Whole lines stay as they are; of a log that lost some, anew."""
        cut = not log.exists() or log.stat().st_size < self.read
        known = Standing() if cut else self
        entries, end = journal.read(log, known.read)
        return known._after(entries)._replace(read=end)

    def _after(self, entries: Iterable[Entry]) -> Standing:
        known = self
        for entry in entries:
            if entry["kind"] == "status":
                said = {"status": entry["status"], "since": entry["time"], "attempt": entry.get("attempt")}
                known = known._replace(**said)
            elif entry["kind"] == "epoch":
                robust = max(known.robust, entry["metrics"]["robust_accuracy"])
                known = known._replace(epoch=max(known.epoch, entry["epoch"]), robust=robust)
        return known
