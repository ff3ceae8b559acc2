"""What MLflow costs those who train, and how far behind them it is: 1, 8 and 64 trials at a time, SQLite and a server.

    python experiments/benchmarks/tracking.py [--trials 1 8 64] [--reports 20] [--every 1] [--whole 1000] [--repeats 3]

Reports:   each trial is a process that appends a report to its log every --every seconds, as a run does after an epoch;
           the program follows the logs, as `quench sweep` does. "report ms" is what the trial waits for, with nobody
           following, with MLflow on a SQLite file, and with a server on this machine.
Behind:    seconds from a report's time to its being in MLflow, and from the last report to the end of it all.
Busy:      share of the time that the follower spent in MLflow; metrics/s are those written in that share.
Whole:     a sweep of so many finished trials, written from the beginning: what `quench sync` does with a new server.
Training:  train seconds of ten epochs on the digits in this process, followed by another, as by `quench train`.
           Turns alternate, the first of each does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import urlopen

import torch
from measuring import about

from quench import Recipe, ThreatModel, trial
from quench.attacks.pgd import PGD
from quench.datasets.digits import Digits
from quench.durable import write_json
from quench.follow import Follower, Sink, following
from quench.geometry.linf import Linf
from quench.journal import Entry
from quench.methods.n_fgsm import NFGSM
from quench.models.small_cnn import SmallCNN
from quench.projection import mirrored
from quench.record import Record
from quench.storage import SweepRecord
from quench.sweep.trials import Trial
from quench.tracking import Tracker
from quench.training.budgets.epochs import Epochs
from quench.training.loop import EpochReport

RECIPE = Recipe(
    data=Digits(),
    model=SmallCNN(),
    threat=ThreatModel(norm=Linf(), epsilon=0.15),
    method=NFGSM(),
    validation=200,
    probe=PGD(steps=2),
    evaluation=PGD(steps=2),
)
REPORT = EpochReport(
    epoch=1, updates=1, train_seconds=1.0, gpu_seconds=1.0, workers=1, learning_rate=0.1, train_loss=1.0,
    train_accuracy=0.5, linearity=0.9, alignment=0.9, abnormal=0.0, clean_accuracy=0.5, fgsm_accuracy=0.4,
    robust_accuracy=0.3, selection_accuracy=None, alarms=0, rollbacks=0,
)  # fmt: skip
SYSTEM = {"process_cpu_percentage": 99.0, "cpu_utilization_percentage": 50.0, "process_memory_megabytes": 400.0}
DATA = Digits().load(200).about()


def created(folder: Path, trials: int) -> SweepRecord:
    """A sweep whose trials have begun."""
    chosen = [Trial("n_fgsm", replace(RECIPE, seed=seed)) for seed in range(trials)]
    made = SweepRecord.create(folder / f"sweep-{time.time_ns()}", "tracking", chosen, {"concurrent": trials})
    for record in made.records:
        record.append("status", status="running", machine={"device": "-"}, data=DATA)
    return made


def report(record: Record, epoch: int) -> None:
    entry = record.news(replace(REPORT, epoch=epoch, train_seconds=epoch + time.time() % 1), SYSTEM)
    assert entry is not None
    record.append(**entry)


def writer(record: Record, reports: int, every: float, place: Path) -> None:
    """A trial's process: the seconds that each report took."""
    started, seconds = time.perf_counter() + every * (hash(record.directory) % 100) / 100, list[float]()
    for number in range(reports):
        time.sleep(max(started + every * number - time.perf_counter(), 0))
        before = time.perf_counter()
        report(record, number + 1)
        seconds.append(time.perf_counter() - before)
    place.write_text(json.dumps(seconds))


@contextmanager
def server(folder: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", f"{folder}/files"]
    settings = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [sys.executable, "-m", "mlflow", "server", *words]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=settings, **quiet) as process:
        host = f"http://127.0.0.1:{port}"
        while True:
            try:
                urlopen(f"{host}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.2)
        yield host
        process.terminate()


class Watched:
    """A sink, with how long it took and how old entries were when it had them."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.busy, self.metrics, self.behind = 0.0, 0, list[float]()

    def __call__(self, record: Record, entries: list[Entry]) -> None:
        before = time.perf_counter()
        self._sink(record, entries)
        self.busy += time.perf_counter() - before
        reports = [entry for entry in entries if entry["kind"] == "epoch"]
        self.metrics += sum(len(entry["metrics"]) + len(entry["system"]) for entry in reports)
        self.behind += [time.time() - entry["time"] / 1000 for entry in reports]


def reports(folder: Path, uri: str | None, trials: int, asked: argparse.Namespace) -> dict[str, float]:
    made = created(folder, trials)
    places = [folder / f"{time.time_ns()}-{n}.json" for n in range(trials)]
    sinks: dict[str, Watched] = {}
    if uri is not None:
        tracker = Tracker(uri, folder, "tracking")
        tracker.begin_sweep(made, "running")
        sinks["MLflow"] = Watched(tracker)
    before = time.perf_counter()
    with following(made.records, sinks):
        for record, place in zip(made.records, places, strict=True):
            if os.fork() == 0:
                writer(record, asked.reports, asked.every, place)
                os._exit(0)
        for _ in range(trials):
            os.wait()
        written = time.perf_counter()
    ended = time.perf_counter()
    seconds = sorted(one for place in places for one in json.loads(place.read_text()))
    row = {"report ms": 1000 * statistics.median(seconds), "worst of 100": 1000 * seconds[int(0.99 * len(seconds))]}
    for watched in sinks.values():
        behind = sorted(watched.behind)
        row |= {"behind s": statistics.median(behind), "behind s, at most": behind[-1], "last s": ended - written}
        row |= {"busy": watched.busy / (ended - before), "metrics/s": watched.metrics / watched.busy}
    return row


def whole(folder: Path, uri: str, trials: int, asked: argparse.Namespace) -> dict[str, float]:
    made = created(folder, trials)
    for record in made.records:
        for epoch in range(asked.reports):
            report(record, epoch + 1)
        record.append("status", status="finished", reason="")
    row: dict[str, float] = {"trials": trials}
    for turn in ("new", "again"):
        tracker = Tracker(uri, folder, "tracking")
        watched = Watched(tracker)
        before = time.perf_counter()
        tracker.begin_sweep(made, "finished")
        follower = Follower(made.records, watched)
        follower.pump()
        assert not follower.failures, follower.failures
        row[f"{turn}: s"] = time.perf_counter() - before
        row[f"{turn}: ms a trial"] = 1000 * watched.busy / trials
        row[f"{turn}: metrics/s"] = watched.metrics / watched.busy
    return row


def training(folder: Path, uri: str | None) -> float:
    """Train seconds of ten epochs."""
    recipe = replace(RECIPE, budget=Epochs(10))
    record = Record.create(folder / f"run-{time.time_ns()}", recipe, experiment="tracking", configuration="n_fgsm")
    asked = Namespace(storage=folder, tracking_uri=uri)
    with nullcontext() if uri is None else mirrored(asked, record):
        for _ in trial.run(record, torch.device("cpu"), ahead=True):
            pass
    return record.entries("epoch")[-1]["metrics"]["train_seconds"]


def rounded(row: dict[str, float]) -> dict[str, float]:
    return {key: round(value, 1 if value >= 10 else 3) for key, value in row.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--reports", type=int, default=20)
    parser.add_argument("--every", type=float, default=1.0)
    parser.add_argument("--whole", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="a JSON file for the result")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []

    def show(title: str, row: dict[str, float]) -> None:
        rows.append({"what": title, **rounded(row)})
        print(json.dumps(rows[-1]), flush=True)

    with TemporaryDirectory() as name:
        folder = Path(name)
        file = f"sqlite:///{folder}/mlflow.db"
        Tracker(f"sqlite:///{folder}/server.db", folder, "-")  # makes the database
        with server(folder) as host:
            stores: dict[str, str | None] = {"nobody": None, "SQLite": file, "server": host}
            for trials in asked.trials:
                for turn in range(asked.repeats):
                    for store, uri in stores.items():
                        title = f"reports of {trials} trials, {store}, turn {turn + 1}"
                        show(title, reports(folder, uri, trials, asked))
            for store, uri in stores.items():
                if uri is not None:
                    show(f"whole sweep, {store}", whole(folder, uri, asked.whole, asked))
            seconds: dict[str, list[float]] = {store: [] for store in stores}
            for turn in range(asked.repeats + 1):
                for store, uri in stores.items():
                    took = training(folder, uri)
                    seconds[store] += [took] if turn else []
            for store, times in seconds.items():
                row = {"median s": statistics.median(times), "least": min(times), "most": max(times)}
                show(f"training, {store}", row)
    settings = {key: value for key, value in vars(asked).items() if key != "out"}
    machine = about("mlflow", "sqlalchemy", **settings)
    print(json.dumps(machine))
    if asked.out:
        write_json(asked.out, {"machine": machine, "rows": rows})


if __name__ == "__main__":
    main()
