"""A run's own record on disk: what it is, what it reported, and the checkpoints it can go on from.

    <run>/recipe.json    the recipe, its sweep, versions, git commit, ...
    <run>/log.jsonl      one entry a line: status, epoch, evaluation; each on disk before anyone sees it
    <run>/verdicts/      every evaluation, example by example
    <run>/last.pt        the run at its latest checkpoint, to go on from
    <run>/best.pt        after the epoch with the best robust accuracy on the held-out images

Everything else (the live table, MLflow, figures) is read from here, and can be made again.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from quench import checkpoint, durable, journal
from quench.config import decode, encode, override
from quench.errors import InvalidValue, Superseded, UserError
from quench.journal import Entry
from quench.provenance import provenance
from quench.standing import ENDED, FINAL, Standing, Status
from quench.training.loop import EpochReport
from quench.training.recipe import Recipe

Checkpoint = Literal["last", "best"]
CHECKPOINTS: tuple[Checkpoint, ...] = ("last", "best")


@dataclass(frozen=True)
class Record:
    """The record in `directory`. One attempt at the run writes it at a time; any process may read."""

    directory: Path
    attempt: str = field(default="", compare=False)
    """the attempt that this is in the hands of, if it is: see `begin`"""
    _stood: list[Standing] = field(default_factory=lambda: [Standing()], repr=False, compare=False)
    """what the log came to when it was last asked"""

    @staticmethod
    def create(
        directory: Path,
        recipe: Recipe,
        *,
        experiment: str,
        configuration: str,
        sweep: str | None = None,
        trial: Mapping[str, Any] | None = None,
    ) -> Record:
        """Begin a record; `directory` must be new. `configuration` is a word for what its replicates share.

        `trial` says where it stands in its sweep: see `sweep.trials.Trial`.
        """
        directory.mkdir(parents=True)
        about = {
            "id": uuid.uuid4().hex,
            "experiment": experiment,
            "configuration": configuration,
            "sweep": sweep,
            "trial": trial,
            "created": now(),
            **provenance(),
            "recipe": encode(recipe),
        }
        durable.write_json(directory / "recipe.json", about)
        return Record(directory)

    @cached_property
    def about(self) -> dict[str, Any]:
        """What was known before the run began."""
        return json.loads((self.directory / "recipe.json").read_text())

    @cached_property
    def recipe(self) -> Recipe:
        return decode(Recipe, self.about["recipe"])

    @property
    def recipe_now(self) -> Recipe:
        """The recipe with what has been changed while it ran: see `go_on_from`."""
        return override(
            self.recipe, {key: value for entry in self.entries("change") for key, value in entry["to"].items()}
        )

    def go_on_from(self, other: Record, changes: Mapping[str, Any]) -> None:
        """Let the run, which must stand still, go on with another's weights and these numbers, by dotted keys.

        Its epochs and its clock are its own still; so are the numbers, where they would be refused.
        """
        mine, learned = self.checkpoint("last"), other.checkpoint("last")
        with suppress(InvalidValue):
            override(self.recipe_now, changes)
            self.append("change", epoch=mine["epoch"], to=dict(changes), of=other.name)
        taken = {key: learned[key] for key in ("model", "optimizer", "averaged", "memory", "places")}
        with checkpoint.Writer(self.hold) as writer:
            writer(mine | taken | {"collapsed": False}, [self.path("last")])

    @property
    def name(self) -> str:
        """`linf 8/255 n_fgsm s=0`: threat model, configuration, seed."""
        return f"{self.recipe.threat} {self.about['configuration']} s={self.recipe.seed}"

    @property
    def log(self) -> Path:
        return self.directory / "log.jsonl"

    @property
    def mark(self) -> Path:
        """The file that whoever carries out the run holds, unless it is a sweep's: see `durable.alone`."""
        return self.directory / "recipe.json"

    def begin(self, **content: Any) -> Record:
        """The record in the hands of a new attempt at the run: what earlier attempts still want to write is refused."""
        mine = replace(self, attempt=uuid.uuid4().hex)
        durable.drop_halves(*map(self.path, CHECKPOINTS))
        self._append("status", status="running", attempt=mine.attempt, **content)
        return mine

    def hold(self) -> None:
        """Raise `Superseded` if this attempt has lost the run: to another, or because somebody said that it is over."""
        if self.attempt and self.standing.attempt != self.attempt:
            raise Superseded(f"{self.directory} was taken over or ended by another process, so this one stops")

    def append(self, kind: str, **content: Any) -> None:
        """Add an entry, and wait until it is on the disk. Raises `NotWritten`, and `Superseded` as `hold` does."""
        self.hold()
        self._append(kind, **content, **({"attempt": self.attempt} if self.attempt and kind == "status" else {}))

    def _append(self, kind: str, **content: Any) -> None:
        with durable.writing(self.log):
            journal.append(self.log, {"kind": kind, "time": now(), **content})

    def read(self, offset: int = 0) -> tuple[list[Entry], int]:
        """The whole entries from byte `offset` on, and the offset after them."""
        return journal.read(self.log, offset)

    def entries(self, kind: str) -> list[Entry]:
        return [entry for entry in self.read()[0] if entry["kind"] == kind]

    @property
    def standing(self) -> Standing:
        """What the log comes to by now."""
        self._stood[0] = self._stood[0].by_now(self.log)
        return self._stood[0]

    @property
    def status(self) -> Status:
        return self.standing.status

    @property
    def unfinished(self) -> bool:
        """Whether there is something left to resume."""
        return self.status not in FINAL

    def settle(self, status: Status, reason: str) -> None:
        """Say how the run ended, unless it has said so itself."""
        if self.status not in ENDED:
            self.append("status", status=status, reason=reason)

    def news(self, report: EpochReport, system: Mapping[str, float]) -> Entry | None:
        """An epoch's entry, with what it took of its machine; None if the log has that epoch since before a crash."""
        if report.epoch <= self.standing.epoch:
            return None
        events = [asdict(event) for event in report.events]
        content = {"metrics": report.metrics(), "system": dict(system), "events": events}
        return {"kind": "epoch", "time": now(), "epoch": report.epoch, **content}

    def best(self, news: Entry) -> bool:
        """Whether an epoch that is not in the log yet is more robust than all that are."""
        return news["metrics"]["robust_accuracy"] > self.standing.robust

    def snapshot(self, state: dict[str, Any], news: Entry | None = None) -> dict[str, Any]:
        """A checkpoint's content: the training's `state`, whose it is, and the epoch that the log may come to lack."""
        epochs = [] if news is None else [news]
        return {"recipe": json.dumps(self.about["recipe"]), "epochs": json.dumps(epochs), **state}

    def path(self, which: Checkpoint) -> Path:
        return self.directory / f"{which}.pt"

    def checkpoint(self, which: Checkpoint) -> dict[str, Any]:
        """A checkpoint's content, on the CPU. Raises `UserError` if it is not there, damaged or of another recipe."""
        path = self.path(which)
        if not path.exists():
            raise UserError(f"{self.directory} has no checkpoint {path.name}: the run has not finished an epoch")
        saved = checkpoint.read(path)
        if json.loads(saved["recipe"]) != self.about["recipe"]:
            raise UserError(f"{path} belongs to another recipe than {self.directory / 'recipe.json'}")
        return saved

    def checkpoints(self) -> dict[Checkpoint, dict[str, Any]]:
        """Those that there are. Raises `UserError` as `checkpoint` does, and says what can be done about it."""
        found: dict[Checkpoint, dict[str, Any]] = {}
        for which in CHECKPOINTS:
            try:
                if self.path(which).exists():
                    found[which] = self.checkpoint(which)
            except UserError as error:
                again = "begin the run again" if which == "last" else "go on without it"
                best = self.path("best")
                instead = f", or put {best} in its place" if which == "last" and best.exists() else ""
                raise UserError(f"{error}; remove it to {again}{instead}") from None
        return found

    def mend(self, saved: dict[Checkpoint, dict[str, Any]]) -> None:
        """Make good what a crash may have cut off behind a checkpoint: the best of the two, and the epoch's entry."""
        for which, content in saved.items():
            known = {entry["epoch"] for entry in self.entries("epoch")}
            for entry in json.loads(content.get("epochs", "[]")):  # earlier versions did not keep them
                if entry["epoch"] in known:
                    continue
                if which == "last" and self.best(entry) and entry["epoch"] == content["epoch"]:
                    durable.write(self.path("best"), self.path("last").read_bytes(), self.hold)
                self.append(**entry)

    @property
    def progress(self) -> int:
        """Grows with every checkpoint and verdict: when the latest of them was written."""
        found = [*self.directory.glob("*.pt"), *self.directory.glob("verdicts/*.jsonl")]
        return max((path.stat().st_mtime_ns for path in found), default=0)


def now() -> int:
    """Milliseconds since 1970, as MLflow counts time."""
    return time.time_ns() // 1_000_000
