"""Search spaces as data: what a value may be, and how one is chosen."""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from itertools import product
from typing import Any, Protocol, cast

from quench.config import decode, encode, flatten
from quench.errors import InvalidValue, nearest, require

Space = Mapping[str, object]
"""dotted key of the recipe -> a distribution, or one value for all trials of this space"""
Assignment = dict[str, Any]
"""dotted key of the recipe -> the value that a trial has there"""


class Chooser(Protocol):
    """Whoever decides: chance, or a sampler that has seen what became of earlier choices. Keys name the decision."""

    def one_of(self, key: str, count: int) -> int:
        """From 0 to below `count`."""
        ...

    def number(self, key: str, low: float, high: float, log: bool) -> float:
        """From `low` to `high`; with `log`, every factor is as likely as any other."""
        ...


class Chance:
    """Independent draws from a seed."""

    def __init__(self, seed: int | str) -> None:
        self._rng = random.Random(seed)

    def one_of(self, key: str, count: int) -> int:
        return self._rng.randrange(count)

    def number(self, key: str, low: float, high: float, log: bool) -> float:
        if not log:
            return self._rng.uniform(low, high)
        return math.exp(self._rng.uniform(math.log(low), math.log(high)))


class Distribution(ABC):
    """What one key of a space may be."""

    @abstractmethod
    def draw(self, key: str, chooser: Chooser, chosen: Assignment) -> Assignment:
        """The value for `key`, and for the keys that come with it; `chosen` are those of before."""


@dataclass(frozen=True, init=False)
class Option:
    """A choice that brings parameters of its own: `Option("n_fgsm", noise_ratio=Uniform(1, 3))`."""

    value: object
    space: Space

    def __init__(self, value: object, **space: object) -> None:
        object.__setattr__(self, "value", value)
        object.__setattr__(self, "space", space)

    def under(self, key: str) -> Space:
        """Its parameters' space by their keys in the recipe, if it is chosen for `key`."""
        return {f"{key}.{name}": values for name, values in self.space.items()}


@dataclass(frozen=True, init=False)
class Choice(Distribution):
    """One of the given values: numbers, names of plug-ins, an `Option`, or whole parts such as a `ThreatModel`."""

    options: tuple[object, ...]

    def __init__(self, *options: object) -> None:
        require(len(options) > 0, "options", options, "must hold at least one value")
        object.__setattr__(self, "options", options)

    def draw(self, key: str, chooser: Chooser, chosen: Assignment) -> Assignment:
        bare, _, within = key.partition("[")
        number = chooser.one_of(key, len(self.options))
        option = self.options[number]
        if not isinstance(option, Option):
            return {bare: option}
        # Another option's parameter of this name is another question.
        own = draw(option.under(bare), chooser, chosen, f"[{within}{number}]")
        return {bare: option.value} | own


@dataclass(frozen=True)
class Uniform(Distribution):
    """Any number from `low` to `high`."""

    low: float
    high: float

    def __post_init__(self) -> None:
        require(self.low < self.high, "high", self.high, f"must be above low = {self.low}")

    def draw(self, key: str, chooser: Chooser, chosen: Assignment) -> Assignment:
        return {_bare(key): chooser.number(key, self.low, self.high, log=False)}


@dataclass(frozen=True)
class LogUniform(Distribution):
    """Any number from `low` to `high`, every factor equally likely."""

    low: float
    high: float

    def __post_init__(self) -> None:
        require(0 < self.low < self.high, "low", self.low, f"must be between 0 and high = {self.high}")

    def draw(self, key: str, chooser: Chooser, chosen: Assignment) -> Assignment:
        return {_bare(key): chooser.number(key, self.low, self.high, log=True)}


@dataclass(frozen=True)
class Integers(Distribution):
    """Any whole number from `low` to `high`, both included."""

    low: int
    high: int

    def __post_init__(self) -> None:
        require(self.low < self.high, "high", self.high, f"must be above low = {self.low}")

    def draw(self, key: str, chooser: Chooser, chosen: Assignment) -> Assignment:
        number = chooser.number(key, self.low, self.high + 1, log=False)
        return {_bare(key): min(int(number // 1), self.high)}


@dataclass(frozen=True)
class Fraction(Distribution):
    """Any number from `low` to `high` times the number at another key, which comes first: of epsilon, unless told."""

    low: float
    high: float
    of: str = "threat.epsilon"

    def __post_init__(self) -> None:
        require(self.low < self.high, "high", self.high, f"must be above low = {self.low}")

    def draw(self, key: str, chooser: Chooser, chosen: Assignment) -> Assignment:
        try:
            whole = decode(float, chosen.get(self.of))
        except InvalidValue:
            allowed = f"is a Fraction of {self.of}, which is no number that comes before it{nearest(self.of, chosen)}"
            raise InvalidValue(_bare(key), chosen.get(self.of), allowed) from None
        return {_bare(key): whole * chooser.number(key, self.low, self.high, log=False)}


KINDS: Mapping[str, type[Distribution]] = {
    kind.__name__: kind for kind in (Choice, Uniform, LogUniform, Integers, Fraction)
}


def draw(space: Space, chooser: Chooser, chosen: Assignment, within: str = "") -> Assignment:
    """A value for every key of the space; `chosen` are values of other keys that some may need."""
    found, known = Assignment(), dict(chosen)
    for key, values in space.items():
        new = values.draw(key + within, chooser, known) if isinstance(values, Distribution) else {key: values}
        found |= new
        for name, value in new.items():
            parts = flatten(value) if is_dataclass(value) or isinstance(value, dict) else {"": value}
            known |= {f"{name}.{part}".rstrip("."): inner for part, inner in parts.items()}
    return found


def enumerated(space: Space) -> Iterator[Assignment]:
    """Every combination of the choices. Raises `InvalidValue` for a range, which has no end of values."""
    parts: list[list[Assignment]] = []
    for key, values in space.items():
        ranged = isinstance(values, Distribution) and not isinstance(values, Choice)
        require(not ranged, key, values, "a grid needs a Choice; use another search for ranges")
        options = values.options if isinstance(values, Choice) else (values,)
        parts.append([one for option in options for one in _with_own(key, option)])
    for combination in product(*parts):
        yield {key: value for part in combination for key, value in part.items()}


def _with_own(key: str, option: object) -> Iterator[Assignment]:
    if not isinstance(option, Option):
        yield {key: option}
        return
    for own in enumerated(option.under(key)):
        yield {key: option.value, **own}


def keys(space: Space) -> Iterator[str]:
    """Every dotted key that a trial may be given a value for."""
    for key, values in space.items():
        yield key
        for option in values.options if isinstance(values, Choice) else ():
            if isinstance(option, Option):
                yield from keys(option.under(key))


def to_data(value: object) -> Any:
    """Spaces and distributions as plain data, `{"Uniform": [0, 1]}`; what is neither, as `config.encode` has it."""
    if isinstance(value, Option):
        return {"Option": [to_data(value.value), to_data(value.space)]}
    if isinstance(value, Choice):
        return {"Choice": [to_data(option) for option in value.options]}
    if isinstance(value, Distribution):
        return {type(value).__name__: [getattr(value, field.name) for field in fields(cast("Any", value))]}
    if isinstance(value, Mapping):
        return {key: to_data(inner) for key, inner in cast("Space", value).items()}
    return encode(value)


def from_data(data: Any) -> Any:
    """The inverse of `to_data`, up to what `config.override` takes either way."""
    if isinstance(data, list):
        return [from_data(item) for item in cast("list[Any]", data)]
    if not isinstance(data, dict):
        return data
    mapping = cast("dict[str, Any]", data)
    if len(mapping) == 1:
        ((kind, content),) = mapping.items()
        if kind == "Option":
            return Option(from_data(content[0]), **from_data(content[1]))
        if kind in KINDS:
            return KINDS[kind](*(from_data(item) for item in content))
    return {key: from_data(inner) for key, inner in mapping.items()}


def _bare(key: str) -> str:
    """The recipe's key of a decision within an option: `method.noise_ratio[1]` is about `method.noise_ratio`."""
    return key.partition("[")[0]
