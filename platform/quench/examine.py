"""Carry out an evaluation: here or on a cluster's workers, from wherever an earlier attempt got to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from torch import Tensor

from quench.console import VerdictBar
from quench.evaluation import Examination, Judged
from quench.subjects import Loaded, Subject
from quench.verdicts import Verdicts


def examine(
    subject: Subject,
    loaded: Loaded,
    asked: Examination,
    console: Console,
    workers: int,
    address: str,
    halfwidth: float,
) -> Verdicts:
    """Judge all test images, or as many as it takes until the 95 % interval is `halfwidth` on either side."""
    verdicts = Verdicts.of(subject.folder, loaded.model, subject.data, len(loaded.test), asked)
    todo, bar = verdicts.todo(), VerdictBar(console, str(asked.threat), len(loaded.test))
    for judged in verdicts.parts():
        bar.add(judged)
    with bar.shown():
        if bar.halfwidth > halfwidth and len(todo):
            with _judging(subject, loaded, asked, todo, workers, address) as parts:
                for judged in parts:
                    verdicts.append(judged)
                    bar.add(judged)
                    if bar.halfwidth <= halfwidth:
                        break
    return verdicts


@contextmanager
def _judging(
    subject: Subject, loaded: Loaded, asked: Examination, todo: Tensor, workers: int, address: str
) -> Iterator[Iterator[Judged]]:
    if workers == 1:
        yield (asked.part(*loaded, part) for part in asked.parts(todo))
        return
    from quench.distributed import cluster
    from quench.distributed.evaluate import judged_on_workers

    with cluster.connected(address, workers, subject.folder) as ray:
        yield judged_on_workers(subject, asked, todo, workers, ray.gives_gpus(workers))
