"""What a user got wrong, in one line: the key, the value, what is allowed, the nearest valid choice."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake that the user can mend; the command line prints its one line and exits with 2."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows instead of a traceback: in a notebook too, one line is enough."""
        return [str(self)]


class NotWritten(UserError):
    """The disk did not take something; what was there before is whole."""


class Superseded(UserError):
    """Another process has taken over what this one was doing."""


class InvalidValue(UserError, ValueError):
    """`key` was given `value`, which the rule `allowed` refuses.

    `key` is dotted from the recipe's root once it has passed through `quench.config`
    (`threat.epsilon`); where a value is built directly in Python it is the field's own name.
    """

    def __init__(self, key: str, value: object, allowed: str) -> None:
        super().__init__(key, value, allowed)
        self.key, self.value, self.allowed = key, value, allowed

    def __str__(self) -> str:
        return f"{self.key} = {self.value!r}: {self.allowed}"

    def under(self, prefix: str) -> InvalidValue:
        """The same refusal, seen from the object that holds this one in its field `prefix`."""
        return InvalidValue(f"{prefix}.{self.key}", self.value, self.allowed)


def require(holds: bool, key: str, value: object, allowed: str) -> None:
    """Raise `InvalidValue` unless `holds`."""
    if not holds:
        raise InvalidValue(key, value, allowed)


def positive(owner: object, *names: str) -> None:
    """Raise `InvalidValue` for the first of these fields of `owner` that is given and not above 0."""
    for name in names:
        value = getattr(owner, name)
        require(value is None or value > 0, name, value, "must be above 0")


def not_negative(owner: object, *names: str) -> None:
    """Raise `InvalidValue` for the first of these fields of `owner` that is below 0."""
    for name in names:
        value = getattr(owner, name)
        require(value >= 0, name, value, "must be 0 or above")


def one_line(error: BaseException) -> str:
    """An error's kind and the first line of what it says, which may be nothing; without secrets."""
    return redacted(f"{type(error).__name__}: {error}".splitlines()[0])


def redacted(text: str) -> str:
    """The text, where URLs in it say who logs in by which password: `https://***@host`."""
    return re.sub(r"(?<=://)[^/\s@]*@", "***@", text)


def nearest(name: str, valid: Iterable[str], cutoff: float = 0.5) -> str:
    """`"; did you mean 'x'?"` for the valid name closest to `name`, or nothing if none is close."""
    close = get_close_matches(name, list(valid), n=1, cutoff=cutoff)
    return f"; did you mean {close[0]!r}?" if close else ""


def one_of(name: str, valid: Iterable[str]) -> str:
    """The rule "must be one of ...", with the nearest valid name to `name`."""
    names = sorted(valid)
    return f"must be one of {', '.join(names)}{nearest(name, names, cutoff=0.3)}"
