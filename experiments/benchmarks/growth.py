"""How seconds and memory grow as images, classes, pixels, epochs and trials do: 1, 4, 16 and 64 times as many.

    python experiments/benchmarks/growth.py [--only WORD] [--repeats 3] [--out FILE]

Parts:    the platform's own work, one thing larger at a time; growth_training.py and growth_records.py say what each
          does. Training is that of the small CNN with N-FGSM on random images of 8x8, judging is by attacks that do not
          succeed and so leave nothing out, and trials are made up: nothing is trained for them.
Seconds:  CPU seconds of the process, all threads, and wall-clock seconds: median, least and most of the repeats, of
          which there are only two once they have taken `ENOUGH` seconds. Each part and size is a process of its own, in
          which the smallest size goes first and does not count; nor does the first turn.
Memory:   the process's largest resident set, what was prepared included; x0 is a process that has only begun.
Growth:   what x64 takes more than x16, over what x16 takes more than x4 (a tenth of its own, if that is more), in CPU
          seconds: 4.0 is linear, however much there is that does not grow, 0 is constant, and above `LINEAR` a part is
          called worse.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from growth_records import PARTS as RECORDS
from growth_training import PARTS as TRAINING
from growth_training import Part
from measuring import about, peak_mb, spread

from quench.durable import write_json

TIMES = (1, 4, 16, 64)
ENOUGH = 3.0
LINEAR = 5.0


def measure(part: Part, times: int, repeats: int, answer: Connection) -> None:
    """In a process of its own: CPU and wall-clock seconds of every turn, and the peak memory at the start and end."""
    start, turns = peak_mb(), list[tuple[float, float]]()
    with TemporaryDirectory() as first, TemporaryDirectory() as second:
        part.prepare(part.first, Path(first))()
        work = part.prepare(part.first * times, Path(second))
        while len(turns) <= 2 or (len(turns) <= repeats and sum(wall for _, wall in turns) < ENOUGH):
            gc.collect()
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            turns.append((time.process_time() - cpu, time.perf_counter() - wall))
    answer.send((turns[1:], start, peak_mb()))


def apart(part: Part, times: int, repeats: int) -> tuple[list[tuple[float, float]], int, int]:
    """`measure` in another process, which has imported what this one has and done nothing yet."""
    forked = get_context("fork")
    ours, theirs = forked.Pipe()
    process = forked.Process(target=measure, args=(part, times, repeats, theirs))
    process.start()
    theirs.close()
    found = ours.recv()
    process.join()
    return found


def row_of(part: Part, repeats: int) -> dict[str, Any]:
    """A row of the table."""
    row: dict[str, Any] = {"grows": part.grows, "part": part.name, "x1": part.first}
    row |= {"cpu s": {}, "wall s": {}, "peak MB": {}}
    for times in TIMES:
        turns, row["peak MB"]["x0"], row["peak MB"][f"x{times}"] = apart(part, times, repeats)
        for name, seconds in zip(("cpu s", "wall s"), zip(*turns, strict=True), strict=True):
            row[name][f"x{times}"] = spread(list(seconds))
    x4, x16, x64 = (row["cpu s"][times]["median"] for times in ("x4", "x16", "x64"))
    return row | {"growth": round((x64 - x16) / max(x16 - x4, 0.1 * x16), 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="parts with this word in what grows or in their name")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="a JSON file for the result")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    machine = about("mlflow", "optuna", "pandas", repeats=asked.repeats)
    print(json.dumps(machine))
    started, rows = time.perf_counter(), list[dict[str, Any]]()
    for part in TRAINING + RECORDS:
        if asked.only in f"{part.grows}: {part.name}":
            rows.append(row_of(part, asked.repeats))
            worse = "  worse than linear" if rows[-1]["growth"] > LINEAR else ""
            print(json.dumps(rows[-1]) + worse, flush=True)
    machine["minutes"] = round((time.perf_counter() - started) / 60, 1)
    print(f"{machine['minutes']} minutes")
    if asked.out:
        write_json(asked.out, {"machine": machine, "rows": rows})


if __name__ == "__main__":
    main()
