"""`quench doctor`: what would fail after an hour, looked at before."""

from __future__ import annotations

import os
import shutil
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from quench.catalogue import name_of
from quench.config import override
from quench.console import terminal
from quench.datasets import Dataset
from quench.errors import one_line
from quench.experiment import Experiment
from quench.sweep.trials import trials

if TYPE_CHECKING:
    from quench.distributed.cluster import Cluster
    from quench.distributed.doctor import Witnesses

_LEAST_STORAGE = 1.0
"""GiB free in the storage folder"""
_LEAST_DISK = 0.05
"""free share of a node's own disk, below which Ray refuses to spill objects"""
_MOST_SKEW = 5.0
"""seconds between clocks, beyond which the times of runs on different nodes do not compare"""


@dataclass(frozen=True)
class Finding:
    """What a check found in one place; `remedy` is empty if all is well."""

    check: str
    place: str
    says: str
    remedy: str = ""


def doctor(arguments: Namespace, changes: dict[str, Any]) -> int:
    """Look at the cluster, the storage, MLflow and the experiment's data; 1 if any of it would fail a run."""
    datasets = _datasets(arguments.experiment, changes)
    from quench.distributed import cluster
    from quench.distributed.doctor import Witnesses

    console = terminal()
    with cluster.connected(arguments.address, 1) as ray, console.status("asking every node"):
        witnesses = Witnesses()
        findings = [
            _cluster(arguments.address, ray, len(witnesses.nodes)),
            *_versions(witnesses),
            *_storage(witnesses, arguments.storage),
            *_tracking(arguments),
            *_gpus(witnesses),
            *(finding for data in datasets for finding in _images(witnesses, data)),
            *_disk(witnesses),
            *_clocks(witnesses),
        ]
    console.print(_table(findings))
    return 1 if any(finding.remedy for finding in findings) else 0


def _datasets(path: Path | None, changes: dict[str, Any]) -> list[Dataset]:
    """All that the experiment's recipe and the trials of its sweep train on."""
    if path is None:
        return []
    experiment = Experiment.load(path)
    recipe = override(experiment.recipe, changes)
    swept = trials(recipe, experiment.sweep) if experiment.sweep else []
    return list(dict.fromkeys([recipe.data, *(trial.recipe.data for trial in swept)]))


def _cluster(address: str, ray: Cluster, nodes: int) -> Finding:
    # Ray refuses a token that it does not expect: being connected with one, it is asked for.
    tokens = "on" if os.environ["RAY_AUTH_MODE"] == "token" else "off"
    return Finding(
        "cluster", address, f"nodes {nodes}, CPUs {ray.cpus}, GPUs {ray.gpus}, token authentication {tokens}"
    )


def _versions(witnesses: Witnesses) -> Iterator[Finding]:
    from quench.distributed.doctor import versions

    ours = versions()

    def wrong(node: str, there: dict[str, str]) -> str:
        return "; ".join(f"{key} {there[key]}, here {ours[key]}" for key in ours if there[key] != ours[key])

    fine = "as here: " + ", ".join(f"{key} {value}" for key, value in ours.items())
    remedy = "give it the same files of quench, and the same packages: `make setup`, by constraints.txt"
    yield from _judged("versions", witnesses.versions(), wrong, fine, remedy)


def _storage(witnesses: Witnesses, storage: Path) -> Iterator[Finding]:
    remedy = "mount one share (NFS, EFS, Filestore) at the same path on every node, writable, and name it: --storage"
    try:
        answers = witnesses.storage(storage)
    except OSError as error:
        yield Finding("storage", "here", one_line(error), remedy)
        return
    free = shutil.disk_usage(storage).free / 2**30
    yield from _judged("storage", answers, lambda node, _: "", f"read and written, {free:.1f} GiB free", remedy)
    if free < _LEAST_STORAGE:
        yield Finding("storage", "here", f"{free:.1f} GiB free", "make room: every run keeps two checkpoints there")


def _tracking(arguments: Namespace) -> Iterator[Finding]:
    """MLflow is written by the process that starts the runs, so it is asked from here."""
    from quench.tracking import default_uri, experiments

    try:
        experiments(arguments.tracking_uri or default_uri(arguments.storage))
        yield Finding("MLflow", "here", "answers")
    except Exception as error:
        yield Finding("MLflow", "here", one_line(error), "start it, or correct --tracking-uri or MLFLOW_TRACKING_URI")


def _gpus(witnesses: Witnesses) -> Iterator[Finding]:
    def wrong(node: str, count: int) -> str:
        promised = witnesses.nodes[node]["Resources"]["GPU"]
        return "" if count >= promised else f"torch can use {count} of Ray's {promised:.0f} GPUs"

    answers = witnesses.cuda()
    if not answers:
        yield Finding("GPUs", "every node", "none: trials run on CPUs")
        return
    remedy = "install NVIDIA's driver there, and a torch that is built for its CUDA"
    yield from _judged("GPUs", answers, wrong, "torch computes on all of Ray's", remedy)


def _images(witnesses: Witnesses, data: Dataset) -> Iterator[Finding]:
    from quench.distributed.doctor import Failure

    answers = witnesses.images(data)
    found = Counter(there for there in answers.values() if not isinstance(there, Failure))
    usual = max(found, key=found.__getitem__, default="")

    def wrong(node: str, there: str) -> str:
        return "" if there == usual else f"{there}; on most nodes {usual}"

    remedy = "put the same images there, at the same path; best into a folder that all nodes share"
    yield from _judged("data", answers, wrong, f"{name_of(data)}: {usual}", remedy)


def _disk(witnesses: Witnesses) -> Iterator[Finding]:
    def wrong(node: str, free: float) -> str:
        return "" if free >= _LEAST_DISK else f"{free:.1%} of the disk with Ray's logs and spilled objects is free"

    fine = f"more than {_LEAST_DISK:.0%} of the disk with Ray's logs and spilled objects is free"
    yield from _judged("disk", witnesses.disk(), wrong, fine, "make room, or start Ray with another --temp-dir there")


def _clocks(witnesses: Witnesses) -> Iterator[Finding]:
    def wrong(node: str, skew: float) -> str:
        return "" if skew <= _MOST_SKEW else f"{skew:.0f} s off"

    yield from _judged("clock", witnesses.skew(), wrong, "as here", "set it by NTP (chrony, systemd-timesyncd)")


def _judged(
    check: str, answers: Mapping[str, Any], wrong: Callable[[str, Any], str], fine: str, remedy: str
) -> Iterator[Finding]:
    """A line for every node that failed to answer or where `wrong` finds something; else one for all of them."""
    from quench.distributed.doctor import Failure

    found = {node: str(it) if isinstance(it, Failure) else wrong(node, it) for node, it in answers.items()}
    failing = {node: what for node, what in found.items() if what}
    for node, what in failing.items():
        yield Finding(check, node, what, remedy)
    if not failing:
        yield Finding(check, "every node", fine)


def _table(findings: list[Finding]) -> Table:
    table = Table("check", "where", "", "what to do", box=SIMPLE_HEAD)
    for finding in findings:
        cells = (finding.check, finding.place, finding.says, finding.remedy or "ok")
        table.add_row(*map(Text, cells), style="red" if finding.remedy else "")
    return table
