"""A run's own record on disk: what it is, what it reported, and the checkpoints it can go on from.

    <run>/recipe.json    the recipe, its sweep, versions, git commit, ...
    <run>/log.jsonl      one entry a line: status, epoch, evaluation; each on disk before anyone sees it
    <run>/verdicts/      every evaluation, example by example
    <run>/last.pt        the run after its latest epoch, to go on from
    <run>/best.pt        after the epoch with the best robust accuracy on the held-out images

Everything else (the live table, MLflow, figures) is read from here, and can be made again.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch

from quench import journal
from quench.config import decode, encode
from quench.errors import UserError, one_line
from quench.journal import Entry
from quench.training.loop import EpochReport
from quench.training.recipe import Recipe

Status = Literal["waiting", "running", "finished", "stopped", "catastrophic_overfitting", "interrupted", "failed"]
"""stopped is a scheduler's decision; interrupted and failed runs can be resumed, the others that ended are final"""
ENDED: frozenset[Status] = frozenset({"finished", "stopped", "catastrophic_overfitting", "interrupted", "failed"})
Checkpoint = Literal["last", "best"]


@dataclass(frozen=True)
class Record:
    """The record in `directory`. One process writes it at a time; any may read."""

    directory: Path

    @staticmethod
    def create(
        directory: Path, recipe: Recipe, *, experiment: str, configuration: str, sweep: str | None = None
    ) -> Record:
        """Begin a record; `directory` must be new. `configuration` is a word for what its replicates share."""
        directory.mkdir(parents=True)
        about = {
            "id": uuid.uuid4().hex,
            "experiment": experiment,
            "configuration": configuration,
            "sweep": sweep,
            "created": now(),
            **provenance(),
            "recipe": encode(recipe),
        }
        write_json(directory / "recipe.json", about)
        return Record(directory)

    @cached_property
    def about(self) -> dict[str, Any]:
        """What was known before the run began."""
        return json.loads((self.directory / "recipe.json").read_text())

    @cached_property
    def recipe(self) -> Recipe:
        return decode(Recipe, self.about["recipe"])

    @property
    def name(self) -> str:
        """`linf 8/255 n_fgsm s=0`: threat model, configuration, seed."""
        return f"{self.recipe.threat} {self.about['configuration']} s={self.recipe.seed}"

    def append(self, kind: str, **content: Any) -> None:
        """Add an entry, and wait until it is on the disk."""
        journal.append(self.directory / "log.jsonl", {"kind": kind, "time": now(), **content})

    def read(self, offset: int = 0) -> tuple[list[Entry], int]:
        """The whole entries from byte `offset` on, and the offset after them."""
        return journal.read(self.directory / "log.jsonl", offset)

    def entries(self, kind: str) -> list[Entry]:
        return [entry for entry in self.read()[0] if entry["kind"] == kind]

    @property
    def status(self) -> Status:
        states = self.entries("status")
        return states[-1]["status"] if states else "waiting"

    @property
    def unfinished(self) -> bool:
        """Whether there is something left to resume."""
        return self.status not in ("finished", "stopped", "catastrophic_overfitting")

    def settle(self, status: Status, reason: str) -> None:
        """Say how the run ended, unless it has said so itself."""
        if self.status not in ENDED:
            self.append("status", status=status, reason=reason)

    def report(self, report: EpochReport, state: dict[str, Any]) -> None:
        """Keep an epoch: first the checkpoint, which holds the report too, then the rest.

        Whatever moment the process dies in, `resume` finds every epoch once.
        """
        entry = {"metrics": report.metrics(), "events": [asdict(event) for event in report.events]}
        content = {"recipe": json.dumps(self.about["recipe"]), "report": entry, **state}
        _replace(self.directory / "last.pt", lambda path: torch.save(content, path))
        self._enter(entry)

    def resume(self) -> dict[str, Any] | None:
        """The latest checkpoint, after what a crash may have cut off behind it has been made good."""
        if not (self.directory / "last.pt").exists():
            return None
        saved = self.checkpoint("last")
        epochs = self.entries("epoch")
        if not epochs or epochs[-1]["epoch"] < saved["epoch"]:
            self._enter(saved["report"])
        return saved

    def _enter(self, report: Entry) -> None:
        """`best.pt` if the epoch in `last.pt` is the best so far, then the epoch's entry."""
        metrics = report["metrics"]
        best = max((entry["metrics"]["robust_accuracy"] for entry in self.entries("epoch")), default=-1.0)
        if metrics["robust_accuracy"] > best:
            _replace(self.directory / "best.pt", lambda path: shutil.copyfile(self.directory / "last.pt", path))
        self.append("epoch", epoch=int(metrics["epoch"]), **report)

    def checkpoint(self, which: Checkpoint) -> dict[str, Any]:
        """A checkpoint's content, on the CPU. Raises `UserError` if it is not there, damaged or of another recipe."""
        path = self.directory / f"{which}.pt"
        if not path.exists():
            raise UserError(f"{self.directory} has no checkpoint {path.name}: the run has not finished an epoch")
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
            recipe = saved["recipe"]
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is not a checkpoint of quench, or damaged ({one_line(error)})") from None
        if json.loads(recipe) != self.about["recipe"]:
            raise UserError(f"{path} belongs to another recipe than {self.directory / 'recipe.json'}")
        return saved


def provenance() -> dict[str, Any]:
    """Versions and git commit: what besides the recipe decides a result."""
    packages = ("quench", "torch", "numpy", "ray", "mlflow")
    return {"versions": {name: _version(name) for name in packages}, "commit": _commit()}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the directory that one works in; `-dirty` if files differ from it."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def write_json(path: Path, content: object) -> None:
    """Whole or not at all."""
    _replace(path, lambda temporary: temporary.write_text(json.dumps(content, indent=2) + "\n"))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


def now() -> int:
    """Milliseconds since 1970, as MLflow counts time."""
    return time.time_ns() // 1_000_000
