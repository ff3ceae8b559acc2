"""The verdicts of an evaluation on disk, example by example: to go on from, and to compare models by.

<folder>/verdicts/<attack and threat>-<hash>.jsonl
    first line    what was asked, of which weights and data: everything that decides a verdict
    other lines   {"index": [...], "correct": {"clean": "110...", "pgd": "100..."}}, on disk as they are given
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quench import __version__, journal
from quench.attacks import Attack
from quench.catalogue import name_of
from quench.config import decode, encode
from quench.datasets import Dataset
from quench.evaluation import Examination, Judged, RobustnessReport, union
from quench.evaluation.reliability import Flag
from quench.randomness import ORDER, generator
from quench.threat_model import ThreatModel


@dataclass(frozen=True)
class Verdicts:
    """One file of verdicts. One process writes it at a time; any may read."""

    path: Path

    @staticmethod
    def of(folder: Path, model: nn.Module, data: Dataset, examples: int, asked: Examination) -> Verdicts:
        """The verdicts on this model under this examination in `folder`, begun now or earlier."""
        question = {
            "weights": digest(model),
            "data": encode(data),
            "examples": examples,
            "attacks": {label: encode(attack) for label, attack in asked.attacks.items()},
            "threat": encode(asked.threat),
            "seed": asked.seed,
            "precision": asked.precision,
            "version": __version__,
        }
        words = " ".join([*map(attack_name, asked.attacks.values()), str(asked.threat)])
        mark = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:8]
        verdicts = Verdicts(folder / "verdicts" / f"{re.sub(r'[^a-z0-9_.]+', '-', words)}-{mark}.jsonl")
        if not verdicts.path.exists():
            verdicts.path.parent.mkdir(parents=True, exist_ok=True)
            journal.append(verdicts.path, question)
        return verdicts

    @staticmethod
    def all(folder: Path) -> list[Verdicts]:
        """Every file of verdicts in `folder`, the oldest first."""
        paths = sorted((folder / "verdicts").glob("*.jsonl"), key=lambda path: path.stat().st_mtime)
        return [Verdicts(path) for path in paths if journal.read(path)[0]]

    @cached_property
    def question(self) -> dict[str, Any]:
        return journal.read(self.path)[0][0]

    @property
    def threat(self) -> ThreatModel:
        return decode(ThreatModel, self.question["threat"])

    @property
    def attacks(self) -> dict[str, Attack]:
        return {label: decode(Attack, attack) for label, attack in self.question["attacks"].items()}

    @property
    def label(self) -> str:
        """`pgd-50-10`."""
        return ", ".join(map(attack_name, self.attacks.values()))

    @property
    def comparable(self) -> tuple[str, ...]:
        """What must agree for the verdicts on two models to be compared."""
        return tuple(
            json.dumps(self.question[key], sort_keys=True) for key in ("data", "examples", "attacks", "threat")
        )

    def append(self, judged: Judged) -> None:
        correct = {name: "".join("01"[bit] for bit in bits.tolist()) for name, bits in judged.correct.items()}
        journal.append(self.path, {"index": judged.places.tolist(), "correct": correct})

    def parts(self) -> Iterator[Judged]:
        """What has been judged so far."""
        for line in journal.read(self.path)[0][1:]:
            correct = {name: torch.tensor([bit == "1" for bit in bits]) for name, bits in line["correct"].items()}
            yield Judged(torch.tensor(line["index"], dtype=torch.int64), correct)

    def todo(self) -> Tensor:
        """The examples that are left, in an order of the seed's: what is judged first is a random sample."""
        rng = generator(torch.device("cpu"), self.question["seed"], ORDER)
        order = torch.randperm(self.question["examples"], generator=rng)
        done = torch.zeros(len(order), dtype=torch.bool)
        for part in self.parts():
            done[part.places] = True
        return order[~done[order]]

    def report(self) -> RobustnessReport:
        """Of what has been judged. Raises `ValueError` if that is nothing."""
        parts = list(self.parts())
        if not parts:
            raise ValueError(f"{self.path} holds no verdicts yet")
        seed, precision = self.question["seed"], self.question["precision"]
        asked = Examination(attacks=self.attacks, threat=self.threat, seed=seed, batch_size=1, precision=precision)
        return asked.report(parts)


def summary(verdicts: Sequence[Verdicts], flags: Sequence[Flag] = ()) -> dict[str, Any]:
    """What verdicts on one model come to, ready for JSON: under one threat model, or under several at once.

    `under` has the shares after each attack and each of its stages, if it is one threat model; `examples` of
    `of` test images were judged.
    """
    reports, question = [one.report() for one in verdicts], verdicts[0].question
    return {
        "attacks": question["attacks"],
        "threats": [one.question["threat"] for one in verdicts],
        "examples": min(report.n for report in reports),
        "of": question["examples"],
        "seed": question["seed"],
        "precision": question["precision"],
        "verdicts": [one.path.name for one in verdicts],
        "clean": reports[0].clean._asdict(),
        "robust": union(reports)._asdict(),
        "under": {name: reports[0].under(name)._asdict() for name in reports[0].correct} if len(reports) == 1 else {},
        "flags": [flag._asdict() for flag in flags],
    }


def attack_name(attack: Attack) -> str:
    """`pgd-50-10`: the attack with its steps and restarts."""
    numbers = [getattr(attack, key) for key in ("steps", "restarts") if hasattr(attack, key)]
    return "-".join(str(word) for word in [name_of(attack), *numbers])


def digest(model: nn.Module) -> str:
    """SHA-256 of the weights and buffers by name: 64 hexadecimal digits, the same on any device."""
    found = hashlib.sha256()
    for name, value in model.state_dict().items():
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
