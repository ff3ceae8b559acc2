"""The folder that holds runs and sweeps: new places in it, and finding what is there.

<storage>/<experiment>-<time>/                a run's record, or
<storage>/<experiment>-<time>/sweep.json      a sweep, with a record for each trial beside it
<storage>/mlflow.db, artifacts/               MLflow, unless it is elsewhere
<storage>/mlflow-*                            what `quench ui` keeps: the server's log, who may log in
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from quench.durable import write_json
from quench.errors import InvalidValue, nearest
from quench.provenance import provenance
from quench.record import Record, now
from quench.standing import Status
from quench.sweep.trials import Trial


@dataclass(frozen=True)
class SweepRecord:
    """A sweep's folder: `sweep.json` says what was asked for, the trials' records what came of it."""

    directory: Path
    _known: dict[Path, Record] = field(default_factory=dict[Path, Record], repr=False, compare=False)

    @staticmethod
    def create(directory: Path, experiment: str, trials: Iterable[Trial], asked: dict[str, Any]) -> SweepRecord:
        """Begin a sweep: its folder, and a record for every trial, none of them run yet."""
        directory.mkdir(parents=True)
        about = {"id": uuid.uuid4().hex, "experiment": experiment, "created": now(), **asked}
        write_json(directory / "sweep.json", about | provenance())
        made = SweepRecord(directory)
        for trial in trials:
            made.add(trial)
        return made

    def add(self, trial: Trial) -> Record:
        """A record for another trial."""
        number = len(self._known) or len(self.records)
        words = f"{number:04d} {trial.recipe.threat} {trial.configuration} s{trial.recipe.seed}"
        place = self.directory / re.sub(r"[^\w.=]+", "-", words)[:100]
        self._known[place] = Record.create(
            place,
            trial.recipe,
            experiment=self.about["experiment"],
            configuration=trial.configuration,
            sweep=self.about["id"],
            trial=trial.about(),
        )
        return self._known[place]

    @property
    def name(self) -> str:
        return self.directory.name

    @property
    def mark(self) -> Path:
        """The file that whoever carries out the sweep holds: see `durable.alone`."""
        return self.directory / "sweep.json"

    @cached_property
    def about(self) -> dict[str, Any]:
        return json.loads((self.directory / "sweep.json").read_text())

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    @property
    def records(self) -> list[Record]:
        """In the order in which they were begun: those that there were at the first question, and any added here."""
        if not self._known:
            marks = sorted(self.directory.glob("*/recipe.json"))
            self._known.update({mark.parent: Record(mark.parent) for mark in marks})
        return list(self._known.values())

    @property
    def status(self) -> Status:
        """How the sweep stands, if nobody is carrying it out."""
        found = {record.status for record in self.records}
        if found & {"waiting", "running", "interrupted"}:
            return "interrupted"
        return "failed" if "failed" in found else "finished"

    @property
    def last_word(self) -> int:
        """When a run last began or ended, in milliseconds since 1970; or when the sweep was made, if none has."""
        times = (record.standing.since for record in self.records)
        return max((time for time in times if time is not None), default=self.about["created"])


def new_directory(storage: Path, experiment: str) -> Path:
    """A place for a run or a sweep that begins now; it does not exist yet."""
    stamp = f"{experiment}-{time.strftime('%Y%m%d-%H%M%S')}"
    free = (storage / (stamp if n == 0 else f"{stamp}-{n}") for n in range(1000))
    return next(path for path in free if not path.exists()).resolve()


def find_sweep(storage: Path, name: str) -> SweepRecord:
    """A sweep by its folder or its name, the "latest", or the latest of an experiment. Raises `InvalidValue` if there
    is none."""
    return SweepRecord(_find("sweep", storage, name, ("*/sweep.json",)).parent)


def find_run(storage: Path, name: str) -> Record:
    """A run by its folder or its name, alone or in a sweep, or the "latest"; else raises `InvalidValue`."""
    return Record(_find("run", storage, name, ("*/recipe.json", "*/*/recipe.json")).parent)


def find_model(storage: Path, name: str) -> Path:
    """The folder of a run, or of a model that was not trained here, by its path or its name, or the "latest"."""
    return _find("run or model", storage, name, ("*/recipe.json", "*/*/recipe.json", "*/model.json")).parent


def find(storage: Path, name: str) -> Record | SweepRecord:
    """Whichever of the two has that folder or name, or was written to last."""
    found = _find("run or sweep", storage, name, ("*/sweep.json", "*/recipe.json"))
    return SweepRecord(found.parent) if found.name == "sweep.json" else Record(found.parent)


def everything(storage: Path) -> list[Record | SweepRecord]:
    """Every sweep, and every run that belongs to none, the one that was written to last at the end."""
    marks = sorted((*storage.glob("*/sweep.json"), *storage.glob("*/recipe.json")), key=_last_written)
    folders = [mark.parent.resolve() for mark in marks]
    return [SweepRecord(folder) if (folder / "sweep.json").exists() else Record(folder) for folder in folders]


def _find(what: str, storage: Path, name: str, patterns: tuple[str, ...]) -> Path:
    """The file that marks the place: `sweep.json` or `recipe.json`."""
    for place in (Path(name), storage / name):
        for mark in {Path(pattern).name for pattern in patterns}:
            if (place / mark).is_file():
                return (place / mark).resolve()
    found = sorted((path for pattern in patterns for path in storage.glob(pattern)), key=_last_written)
    names = [str(path.parent.relative_to(storage)) for path in found]
    if not found:
        raise InvalidValue(what, name, f"{storage} holds no {what}; start one with `quench train` or `quench sweep`")
    stamped = re.compile(rf"{re.escape(name)}-\d{{8}}-\d{{6}}(-\d+)?")
    mine = [path for path in found if name == "latest" or stamped.fullmatch(path.parent.name)]
    if mine:
        return mine[-1].resolve()
    hint = nearest(name, names) or f"; the latest is {names[-1]!r}"
    raise InvalidValue(what, name, f"no such folder, and no {what} of that name in {storage}{hint}")


def _last_written(mark: Path) -> float:
    """When a run last reported, or a sweep's youngest run; a run that never did is older than any that has."""
    logs = [mark.with_name("log.jsonl"), *mark.parent.glob("*/log.jsonl")]
    return max((log.stat().st_mtime for log in logs if log.exists()), default=0.0)
