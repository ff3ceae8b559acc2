"""What the platform takes besides the training: of an epoch, before the first and after the last, and of memory.

    python experiments/benchmarks/overhead.py [--epochs 20] [--trials 3] [--repeats 3] [--size 8]

Recipe:    experiments/digits_linf.py with fewer epochs, of a fifth of a second, in which little else is lost, and a
           short final evaluation; --size 16 or 32 enlarges the digits, and so the epochs, 4 or 16 times.
By:        fit: the bare training loop in a process of its own, which keeps nothing; train: `quench train`, with record,
           checkpoints and MLflow; sweep: `quench sweep` of some seeds one after the other, with Ray Tune besides.
Epochs:    all but each run's first. Train seconds are the train clock's; wall seconds, from report to report, have
           the probe of the held-out images and what the platform does besides; CPU seconds are those of the process
           that trains. "more" is what the median adds to fit's in the same turn: median, least and most of the turns.
Start:     seconds from the program's start, in a sweep from the end of the trial before, until a run begins to train.
End:       seconds from the last trial's end to the program's.
Memory:    MB (10^6 bytes), watched five times a second in a turn of its own that is not timed: the resident set of the
           process that trains, and the proportional set of all processes together, each at its largest.
Commands:  wall-clock and CPU seconds, and the largest resident set, of what is typed most.

Turns alternate between contenders. All processes have one thread and MLflow an SQLite file that is there already.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from importlib.metadata import version
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import psutil

from quench.durable import write_json

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

RECIPE = replace(DIGITS, data=Digits(size={size}), budget=Epochs({epochs}), evaluation=PGD(steps=2), reliability=0)
SWEEP = Sweep(space={{"seed": Choice(*range({trials}))}})
"""


class Epoch(NamedTuple):
    """Seconds."""

    train: float
    wall: float
    cpu: float


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
    place, started = folder / "fit.json", time.time()
    process = get_context("spawn").Process(target=bare, args=(path, place))
    process.start()
    assert process.pid is not None
    with watching(process.pid):
        process.join()
    over, found = time.time(), json.loads(place.read_text())
    epochs = [Epoch(*(b - a for a, b in zip(one, other, strict=True))) for one, other in pairwise(found["readings"])]
    return Turn(started, [found["begun"]], [found["ended"]], over, epochs, {process.pid})


def by_program(command: str, *words: str) -> Callable[..., Turn]:
    def run(path: Path, folder: Path, watching: Watching) -> Turn:
        storage = folder / f"{command}-{time.time_ns()}"
        store = ["--storage", str(storage), "--tracking-uri", f"sqlite:///{folder}/mlflow.db"]
        started = time.time()
        process = subprocess.Popen([QUENCH, command, str(path), *words, *store], **QUIET)
        with watching(process.pid):
            assert process.wait() == 0
        return turn(started, time.time(), sorted(storage.rglob("log.jsonl")))

    return run


def turn(started: float, over: float, logs: list[Path]) -> Turn:
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
    return Turn(started, begun, ended, over, epochs, trainers)


class Memory:
    """Of a process and all that it has started, MB."""

    def __init__(self) -> None:
        self.together = 0.0
        self.resident: dict[int, float] = {}
        """the most that each process had"""

    @contextmanager
    def watching(self, pid: int) -> Iterator[None]:
        over, program = threading.Event(), psutil.Process(pid)

        def watch() -> None:
            while not over.wait(0.2):
                with suppress(psutil.Error):  # one of them has just ended
                    self._look(program)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _look(self, program: psutil.Process) -> None:
        together = 0.0
        for process in [program, *program.children(recursive=True)]:
            found = process.memory_full_info()
            self.resident[process.pid] = max(found.rss / 1e6, self.resident.get(process.pid, 0.0))
            together += found.pss / 1e6
        self.together = max(self.together, together)


def commands(path: Path, sweep: Path, repeats: int) -> list[dict[str, Any]]:
    """Each after the other, again and again."""
    python = [sys.executable, "-c"]
    asked = {
        "python -c pass": [*python, "pass"],
        "python -c 'import quench'": [*python, "import quench"],
        "quench --help": [QUENCH, "--help"],
        "python -c 'import torch'": [*python, "import torch"],
        "quench train FILE --help": [QUENCH, "train", str(path), "--help"],
        "quench report SWEEP": [QUENCH, "report", str(sweep)],
        "quench sweep FILE --dry-run": [QUENCH, "sweep", str(path), "--dry-run"],
    }
    seconds: dict[str, list[tuple[float, float, float]]] = {name: [] for name in asked}
    for _ in range(repeats):
        for name, words in asked.items():
            before = time.perf_counter()
            process = subprocess.Popen(words, **QUIET)
            _, status, used = os.wait4(process.pid, 0)
            assert status == 0, name
            wall, cpu = time.perf_counter() - before, used.ru_utime + used.ru_stime
            seconds[name].append((wall, cpu, used.ru_maxrss * 1024 / 1e6))
            print(f"{name}: {wall:.2f} s", flush=True)
    return [{"what": name, **columns(("wall s", "cpu s", "MB"), rows)} for name, rows in seconds.items()]


def columns(names: tuple[str, ...], rows: list[tuple[float, ...]]) -> dict[str, Any]:
    return {name: spread(values) for name, values in zip(names, map(list, zip(*rows, strict=True)), strict=True)}


def spread(values: list[float]) -> dict[str, float]:
    """Median, least, most, and of how many."""
    few = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    return {**{key: float(f"{value:.4g}") for key, value in few.items()}, "n": len(values)}


def per_epoch(turns: Mapping[str, list[Turn]]) -> list[dict[str, Any]]:
    """Seconds of an epoch by each contender, and what they are more than fit's."""
    rows: list[dict[str, Any]] = []
    for name, own in turns.items():
        row: dict[str, Any] = {"by": name, **columns(Epoch._fields, [epoch for turn in own for epoch in turn.epochs])}
        for place, field in enumerate(Epoch._fields):
            here, there = (
                [statistics.median(epoch[place] for epoch in turn.epochs) for turn in some]
                for some in (own, turns["fit"])
            )
            pairs = list(zip(here, there, strict=True))
            row[f"{field}: ms more"] = spread([1000 * (mine - fits) for mine, fits in pairs])
            row[f"{field}: share more"] = spread([mine / fits - 1 for mine, fits in pairs])
        rows.append(row)
    return rows


def around(turns: Mapping[str, list[Turn]]) -> list[dict[str, Any]]:
    """Seconds before the first trial, between trials and after the last."""
    rows: list[dict[str, Any]] = []
    for name, own in turns.items():
        row: dict[str, Any] = {"by": name, "start": spread([turn.begun[0] - turn.started for turn in own])}
        later = [begun - ended for turn in own for begun, ended in zip(turn.begun[1:], turn.ended[:-1], strict=True)]
        row |= {"start of later trials": spread(later)} if later else {}
        rows.append({**row, "end": spread([turn.over - turn.ended[-1] for turn in own])})
    return rows


def watched(run: Callable[..., Turn], *words: object) -> dict[str, int]:
    """The most memory that a turn had."""
    memory = Memory()
    trainers = run(*words, memory.watching).trainers
    return {"MB, training": round(max(memory.resident[pid] for pid in trainers)), "MB, all": round(memory.together)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", type=int, default=8)
    parser.add_argument("--out", type=Path, help="a JSON file for the result")
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    contenders = {"fit": by_fit, "train": by_program("train"), "sweep": by_program("sweep", "--concurrent", "1")}
    with TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "overhead.py"
        path.write_text(FILE.format(folder=str(EXPERIMENTS), **vars(asked)))
        memory = {by: watched(run, path, folder) for by, run in contenders.items()}
        turns: dict[str, list[Turn]] = {by: [] for by in contenders}
        for number in range(asked.repeats):
            for by, run in contenders.items():
                done = run(path, folder, lambda pid: nullcontext())
                turns[by].append(done)
                print(f"turn {number + 1}, {by}: {done.over - done.started:.1f} s", flush=True)
        sweep = next(folder.glob("sweep-*/*/sweep.json")).parent
        result: dict[str, list[dict[str, Any]]] = {"epochs": per_epoch(turns)}
        result["around"] = [row | memory[row["by"]] for row in around(turns)]
        result["commands"] = commands(path, sweep, asked.repeats)
    about = machine() | {"seed": 0, **vars(asked)}
    del about["out"]
    print(json.dumps(about))
    for rows in result.values():
        print(*map(json.dumps, rows), sep="\n")
    if asked.out:
        write_json(asked.out, {"machine": about, **result})


def machine() -> dict[str, Any]:
    """Imported only in the end: the largest resident set of a child begins with its parent's."""
    from quench import trial

    found = trial.machine(trial.best_device()) | {"threads": 1, "cpus": os.cpu_count()}
    del found["pid"]
    return found | {package: version(package) for package in ("torch", "ray", "mlflow")}


if __name__ == "__main__":
    main()
