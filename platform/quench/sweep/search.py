"""Where in the space to look next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from quench.sweep.space import Assignment, Chance, Space, draw, enumerated

if TYPE_CHECKING:
    import optuna


class Outcome(NamedTuple):
    """What a configuration has come to: means over its seeds, on held-out images."""

    selection: float
    """robust accuracy under the recipe's selection; 0 for a collapsed, diverged or failed run"""
    clean: float
    seconds: float
    """on the train clock"""


class Search(Protocol):
    """Decides by what became of earlier choices, or not."""

    def ask(self, number: int) -> tuple[Assignment, Any] | None:
        """The configuration of this number, and a memo, plain data, to come with its outcome; None after the last.

        Numbers grow.
        """
        ...

    def tell(self, number: int, memo: Any, outcome: Outcome) -> None:
        """What became of it: asked by this object, or by another before."""
        ...


class GridSearch:
    """Every combination of the choices."""

    def __init__(self, spaces: Sequence[Space]) -> None:
        self._left = enumerate(assignment for space in spaces for assignment in enumerated(space))

    def ask(self, number: int) -> tuple[Assignment, Any] | None:
        return next(((found, None) for n, found in self._left if n == number), None)

    def tell(self, number: int, memo: Any, outcome: Outcome) -> None:
        """Of no interest."""


@dataclass(frozen=True)
class RandomSearch:
    """Independent draws: the same one for a number, whatever was drawn before."""

    spaces: Sequence[Space]
    known: Assignment
    seed: str

    def ask(self, number: int) -> tuple[Assignment, Any] | None:
        chance = Chance(f"{self.seed}/{number}")
        return draw(self.spaces[chance.one_of("space", len(self.spaces))], chance, self.known), None

    def tell(self, number: int, memo: Any, outcome: Outcome) -> None:
        """Of no interest."""


class OptunaSearch:
    """Optuna's TPE for the highest robust accuracy, or its NSGA-II for that, clean accuracy and train seconds at once.

    Both begin at random. A study is in memory alone: made anew, it is told of what was tried before.
    """

    def __init__(self, kind: str, spaces: Sequence[Space], known: Assignment, seed: int) -> None:
        """`seed` must be another one whenever the study is made anew, or it draws what it has drawn before."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._single, self._spaces, self._known = kind == "tpe", spaces, known
        sampler: optuna.samplers.BaseSampler
        if self._single:
            # Running trials count as bad ones, so that those asked for at the same time differ.
            sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        else:
            sampler = optuna.samplers.NSGAIISampler(seed=seed, population_size=20)
        self._study = optuna.create_study(
            sampler=sampler, directions=["maximize"] if self._single else ["maximize", "maximize", "minimize"]
        )
        self._asked: dict[int, optuna.Trial] = {}

    def ask(self, number: int) -> tuple[Assignment, Any] | None:
        from optuna.distributions import distribution_to_json

        trial = self._asked[number] = self._study.ask()
        chooser = _Asking(trial)
        assignment = draw(self._spaces[chooser.one_of("space", len(self._spaces))], chooser, self._known)
        kinds = {name: distribution_to_json(kind) for name, kind in trial.distributions.items()}
        return assignment, {"parameters": trial.params, "distributions": kinds}

    def tell(self, number: int, memo: Any, outcome: Outcome) -> None:
        from optuna.distributions import json_to_distribution
        from optuna.trial import create_trial

        values = [outcome.selection] if self._single else list(outcome)
        if number in self._asked:
            self._study.tell(self._asked.pop(number), values)
            return
        kinds = {name: json_to_distribution(kind) for name, kind in memo["distributions"].items()}
        self._study.add_trial(create_trial(params=memo["parameters"], distributions=kinds, values=values))


@dataclass(frozen=True)
class _Asking:
    """An Optuna trial as a chooser."""

    trial: optuna.Trial

    def one_of(self, key: str, count: int) -> int:
        return self.trial.suggest_categorical(key, range(count)) if count > 1 else 0

    def number(self, key: str, low: float, high: float, log: bool) -> float:
        return self.trial.suggest_float(key, low, high, log=log)
