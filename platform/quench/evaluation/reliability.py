"""Signs that a robustness evaluation does not mean what it says."""

from __future__ import annotations

from typing import NamedTuple


class Flag(NamedTuple):
    """A reason not to trust a number."""

    name: str
    reason: str
    """one line, with what was measured and what was allowed"""
