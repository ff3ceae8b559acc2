"""Carry out an evaluation: here or on a cluster's workers, from wherever an earlier attempt got to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from torch import Tensor

from quench import __version__
from quench.catalogue import name_of
from quench.console import VerdictBar
from quench.evaluation import Examination, Judged
from quench.evaluation.intervals import Share
from quench.evaluation.reliability import Flag
from quench.record import write_json
from quench.subjects import Loaded, Subject
from quench.threat_model import TOLERANCE
from quench.verdicts import Verdicts, summary


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

    with cluster.connected(address, workers) as ray:
        yield judged_on_workers(subject, asked, todo, workers, ray.gives_gpus(workers))


def write_protocol(subject: Subject, verdicts: Verdicts, flags: Sequence[Flag]) -> None:
    """The result with everything that it takes to repeat it, beside the verdicts: keys of RobustBench's model
    records, where those have one, and `evaluation` for the rest."""
    report, about = verdicts.report(), summary([verdicts], flags)
    entry = {
        "name": subject.name,
        "dataset": name_of(subject.data),
        "eps": str(report.threat).partition(" ")[2],
        "clean_acc": _points(report.clean),
        **{f"{label}_acc": _points(report.under(label)) for label in about["attacks"]},
        "unreliable": bool(flags),
        "number_forward_passes": 1,
        **dict.fromkeys(("link", "authors", "venue", "architecture", "additional_data")),
        "evaluation": {
            "quench": __version__,
            **about,
            "data": verdicts.question["data"],
            "weights_sha256": verdicts.question["weights"],
            "pixels": "[0, 1]",
            "mode": "eval",
            "judged_in": "float32",
            "tolerance": TOLERANCE,
        },
    }
    write_json(verdicts.path.with_suffix(".json"), entry)


def _points(share: Share) -> str:
    """As RobustBench writes it: `58.04`."""
    return f"{100 * share.value:.2f}"
