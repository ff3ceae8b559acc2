"""The contenders of `overhead.py`: a recipe by the bare loop, by `quench train` and by `quench sweep`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from quench.beside import repeatedly

EXPERIMENTS = Path(__file__).resolve().parents[1]
QUENCH = str(Path(sys.executable).with_name("quench"))
QUIET: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
Watching = Callable[[int], AbstractContextManager[None]]
"""of a process, while it runs"""
FILE = """
import sys
from dataclasses import replace

sys.path.insert(0, {folder!r})
from digits_linf import RECIPE as DIGITS
from quench import Choice, Sweep
from quench.attacks.pgd import PGD
from quench.datasets.digits import Digits
from quench.training.budgets.epochs import Epochs

SHORT = dict(probe=PGD(steps=1), evaluation=PGD(steps=2), reliability=0)
RECIPE = replace(DIGITS, data=Digits(size={size}), budget=Epochs({epochs}), **SHORT)
SWEEP = Sweep(space={{"seed": Choice(*range({trials}))}})
"""


class Epoch(NamedTuple):
    """Seconds."""

    train: float
    wall: float
    cpu: float

    @property
    def beside(self) -> float:
        return self.wall - self.train


class Turn(NamedTuple):
    """What one start of a contender came to; times in seconds since 1970."""

    started: float
    begun: list[float]
    """when each of its runs began to train"""
    ended: list[float]
    over: float
    epochs: list[Epoch]
    trainers: set[int]
    """the processes that trained"""
    busy: float
    """CPU seconds of the whole machine"""


def bare(path: Path, place: Path) -> None:
    """In a process of its own: nothing but the loop."""
    import torch

    from quench.experiment import Experiment
    from quench.training.loop import fit
    from quench.training.state import TrainState

    recipe = Experiment.load(path).recipe
    data = recipe.data.load(recipe.validation)
    state = TrainState.initial(recipe, data.spec(), torch.device("cpu"))
    begun, readings = time.time(), list[tuple[float, ...]]()
    for report in fit(state, recipe, data):
        readings.append((report.train_seconds, time.time(), time.process_time()))
    place.write_text(json.dumps({"begun": begun, "ended": time.time(), "readings": readings}))


def by_fit(path: Path, folder: Path, watching: Watching) -> Turn:
    place, started, before = folder / "fit.json", time.time(), busy()
    process = get_context("spawn").Process(target=bare, args=(path, place))
    process.start()
    assert process.pid is not None
    with watching(process.pid):
        process.join()
    over, found = time.time(), json.loads(place.read_text())
    epochs = [Epoch(*(b - a for a, b in zip(one, other, strict=True))) for one, other in pairwise(found["readings"])]
    return Turn(started, [found["begun"]], [found["ended"]], over, epochs, {process.pid}, busy() - before)


def by_program(command: str, *words: str) -> Callable[..., Turn]:
    def run(path: Path, folder: Path, watching: Watching) -> Turn:
        storage = folder / f"{command}-{time.time_ns()}"
        store = ["--storage", str(storage), "--tracking-uri", f"sqlite:///{folder}/mlflow.db"]
        started, before = time.time(), busy()
        process = subprocess.Popen([QUENCH, command, str(path), *words, *store], **QUIET)
        with watching(process.pid):
            assert process.wait() == 0
        over, used = time.time(), busy() - before
        return turn(started, over, sorted(storage.rglob("log.jsonl")), used)

    return run


def busy() -> float:
    """CPU seconds that the machine has been at work."""
    times = psutil.cpu_times()
    return times.user + times.nice + times.system


def turn(started: float, over: float, logs: list[Path], used: float) -> Turn:
    """What the runs' own logs say."""
    begun, ended, epochs, trainers = list[float](), list[float](), list[Epoch](), set[int]()
    for log in logs:
        entries: list[dict[str, Any]] = [json.loads(line) for line in log.read_text().splitlines()]
        states = [entry for entry in entries if entry["kind"] == "status"]
        assert [state["status"] for state in states] == ["running", "finished"], log
        begun.append(states[0]["time"] / 1000)
        ended.append(states[1]["time"] / 1000)
        trainers.add(states[0]["machine"]["pid"])
        for one, other in pairwise(entry for entry in entries if entry["kind"] == "epoch"):
            wall = (other["time"] - one["time"]) / 1000
            train = other["metrics"]["train_seconds"] - one["metrics"]["train_seconds"]
            epochs.append(Epoch(train, wall, wall * other["system"]["process_cpu_percentage"] / 100))
    return Turn(started, begun, ended, over, epochs, trainers, used)


class Memory:
    """Of a process and all that it has started, MB."""

    def __init__(self) -> None:
        self.together = 0.0
        self.resident: dict[int, float] = {}
        """the most that each process had"""

    @contextmanager
    def watching(self, pid: int) -> Iterator[None]:
        program = psutil.Process(pid)

        def watch() -> None:
            with suppress(psutil.Error):  # one of them has just ended
                self._look(program)

        with repeatedly(watch, 0.2, "memory"):
            yield

    def _look(self, program: psutil.Process) -> None:
        together = 0.0
        for process in [program, *program.children(recursive=True)]:
            found = process.memory_full_info()
            self.resident[process.pid] = max(found.rss / 1e6, self.resident.get(process.pid, 0.0))
            together += found.pss / 1e6
        self.together = max(self.together, together)
