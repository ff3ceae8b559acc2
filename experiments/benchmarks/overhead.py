"""What the platform takes besides the training: of an epoch, before the first and after the last, and of memory.

    python experiments/benchmarks/overhead.py [--epochs 30] [--trials 3] [--repeats 5] [--workers 2] [--one-core]

Recipe:    experiments/digits_linf.py with fewer epochs, of a fifth of a second, in which little else is lost, and short
           looks at the held-out and the test images; --size 16 or 32 makes the epochs 4 or 16 times as long.
By:        fit: the bare training loop in a process of its own, which keeps nothing; train: `quench train`, with record,
           checkpoints and MLflow; sweep: `quench sweep` of some seeds one after the other, with Ray Tune besides.
           Whatever they do beside the training has another core, if there is one; with --one-core all share one.
           With --workers, also a sweep whose trials have several, of which only starts, ends and memory are compared.
Epochs:    means over all but each run's first; medians, least and most of the turns. Train seconds are the train
           clock's; wall seconds, from report to report, have the look at the held-out images and what the platform does
           besides, the seconds "beside" the train clock. "more" is what a turn adds to fit's turn beside it.
Start:     seconds from the program's start, in a sweep from the end of the trial before, until a run begins to train.
End:       seconds from the last trial's end to the program's. CPU: of the whole machine, from start to end.
Memory:    MB (10^6 bytes), watched five times a second in a turn of its own that is not timed: the resident set of the
           process that trains, and the proportional set of all processes together, each at its largest.
Commands:  wall-clock and CPU seconds of what is typed most.

Turns go forwards and backwards through the contenders. All processes have one thread and MLflow an SQLite file that is
there already.
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
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from measuring import about, spread, taking_turns
from overhead_runs import EXPERIMENTS, FILE, QUENCH, QUIET, Memory, Turn, by_fit, by_program

from quench.durable import write_json

SETTLED = 3.0
"""seconds between turns: processes of the one before may still be ending"""


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
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in asked}
    for _ in range(repeats):
        for name, words in asked.items():
            before = time.perf_counter()
            process = subprocess.Popen(words, **QUIET)
            _, status, used = os.wait4(process.pid, 0)
            assert status == 0, name
            seconds[name].append((time.perf_counter() - before, used.ru_utime + used.ru_stime))
            print(f"{name}: {seconds[name][-1][0]:.2f} s", flush=True)
    return [
        {"what": name, "wall s": spread([wall for wall, _ in rows]), "cpu s": spread([cpu for _, cpu in rows])}
        for name, rows in seconds.items()
    ]


def per_epoch(turns: Mapping[str, list[Turn]]) -> list[dict[str, Any]]:
    """Seconds of an epoch by each contender, and what they are more than fit's."""
    rows: list[dict[str, Any]] = []
    for name, own in turns.items():
        row: dict[str, Any] = {"by": name}
        for figure in ("train", "wall", "beside", "cpu"):
            here, there = (
                [statistics.mean(getattr(epoch, figure) for epoch in turn.epochs) for turn in some]
                for some in (own, turns["fit"])
            )
            row[figure] = spread(here)
            pairs = list(zip(here, there, strict=True))
            row[f"{figure}: ms more"] = spread([1000 * (mine - fits) for mine, fits in pairs])
            row[f"{figure}: share more"] = spread([mine / fits - 1 for mine, fits in pairs])
        rows.append(row)
    return rows


def around(turns: Mapping[str, list[Turn]]) -> list[dict[str, Any]]:
    """Seconds before the first trial, between trials and after the last; and of everything."""
    rows: list[dict[str, Any]] = []
    for name, own in turns.items():
        row: dict[str, Any] = {"by": name, "start": spread([turn.begun[0] - turn.started for turn in own])}
        later = [begun - ended for turn in own for begun, ended in zip(turn.begun[1:], turn.ended[:-1], strict=True)]
        row |= {"start of later trials": spread(later)} if later else {}
        row |= {"end": spread([turn.over - turn.ended[-1] for turn in own])}
        row |= {"a trial": spread([e - b for turn in own for b, e in zip(turn.begun, turn.ended, strict=True)])}
        row |= {"all": spread([turn.over - turn.started for turn in own])}
        rows.append({**row, "cpu, all": spread([turn.busy for turn in own]), "trials": len(own[0].begun)})
    return rows


def watched(run: Callable[..., Turn], *words: object) -> dict[str, int]:
    """The most memory that a turn had."""
    memory = Memory()
    trainers = run(*words, memory.watching).trainers
    return {"MB, training": round(max(memory.resident[pid] for pid in trainers)), "MB, all": round(memory.together)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, default=8)
    parser.add_argument("--one-core", action="store_true")
    parser.add_argument("--workers", type=int, default=1, help="of each trial of another sweep, if more than 1")
    parser.add_argument("--out", type=Path, help="a JSON file for the result")
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    if asked.one_core:
        psutil.Process().cpu_affinity([0])
    one_at_a_time = ("sweep", "--concurrent", "1")
    contenders = {"fit": by_fit, "train": by_program("train"), "sweep": by_program(*one_at_a_time)}
    alike = list(contenders)
    if asked.workers > 1:
        several = by_program(*one_at_a_time, "--workers", str(asked.workers))
        contenders[f"sweep --workers {asked.workers}"] = several
    with TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "overhead.py"
        path.write_text(FILE.format(folder=str(EXPERIMENTS), **vars(asked)))
        memory = {by: watched(run, path, folder) for by, run in contenders.items()}
        turns: dict[str, list[Turn]] = {by: [] for by in contenders}
        for turn, by in taking_turns(contenders, asked.repeats):
            time.sleep(SETTLED)
            done = contenders[by](path, folder, lambda pid: nullcontext())
            turns[by].append(done)
            print(f"turn {turn + 1}, {by}: {done.over - done.started:.1f} s", flush=True)
        sweep = next(folder.glob("sweep-*/*/sweep.json")).parent
        result: dict[str, list[dict[str, Any]]] = {"epochs": per_epoch({by: turns[by] for by in alike})}
        result["around"] = [row | memory[row["by"]] for row in around(turns)]
        result["commands"] = commands(path, sweep, asked.repeats)
    settings = {key: value for key, value in vars(asked).items() if key != "out"}
    machine = about("ray", "mlflow", **settings) | {"threads": 1}
    print(json.dumps(machine))
    for rows in result.values():
        print(*map(json.dumps, rows), sep="\n")
    if asked.out:
        write_json(asked.out, {"machine": machine, **result})


if __name__ == "__main__":
    main()
