"""What the platform takes besides the training: of an epoch, before the first and after the last, and of memory.

    python experiments/benchmarks/overhead.py [--epochs 20] [--trials 3] [--repeats 3] [--size 8]

Recipe:    experiments/digits_linf.py with fewer epochs, of a fifth of a second, in which little else is lost, and short
           looks at the held-out and the test images; --size 16 or 32 makes the epochs 4 or 16 times as long.
By:        fit: the bare training loop in a process of its own, which keeps nothing; train: `quench train`, with record,
           checkpoints and MLflow; sweep: `quench sweep` of some seeds one after the other, with Ray Tune besides.
Epochs:    all but each run's first. Train seconds are the train clock's; wall seconds, from report to report, have
           the look at the held-out images and what the platform does besides, the seconds "beside" the train clock;
           CPU seconds are those of the process that trains. "more" is what the median adds to fit's in the same turn:
           median, least and most of the turns.
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
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from overhead_runs import EXPERIMENTS, FILE, QUENCH, QUIET, Memory, Turn, by_fit, by_program

from quench.durable import write_json


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
        row: dict[str, Any] = {"by": name}
        for figure in ("train", "wall", "beside", "cpu"):
            row[figure] = spread([getattr(epoch, figure) for turn in own for epoch in turn.epochs])
            here, there = (
                [statistics.median(getattr(epoch, figure) for epoch in turn.epochs) for turn in some]
                for some in (own, turns["fit"])
            )
            pairs = list(zip(here, there, strict=True))
            row[f"{figure}: ms more"] = spread([1000 * (mine - fits) for mine, fits in pairs])
            row[f"{figure}: share more"] = spread([mine / fits - 1 for mine, fits in pairs])
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
