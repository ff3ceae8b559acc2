"""Shares and their intervals, and what two models' verdicts on the same images say of each other."""

from __future__ import annotations

from math import comb, sqrt
from typing import NamedTuple

from torch import Tensor

_Z = 1.959964
"""covers 95 % of a normal distribution"""


class Share(NamedTuple):
    """A share of examples, in [0, 1], with its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}]"


def wilson(successes: int, n: int, z: float = _Z) -> Share:
    """Wilson's score interval for a binomial share (Wilson 1927); `z` = 1.96 covers 95 %."""
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Share(share, max(centre - half, 0.0), min(centre + half, 1.0))


class Comparison(NamedTuple):
    """Two models' verdicts on the same `n` images."""

    n: int
    only_first: int
    """images that the first has right and the second wrong"""
    only_second: int
    difference: Share
    """share of the first less that of the second, with its 95 % interval"""
    p_value: float
    """McNemar's exact test: how likely a split of the disagreements as uneven as this is if the models are alike"""


def compare(first: Tensor, second: Tensor) -> Comparison:
    """`(n,)` bool each, of the same images in the same order.

    The interval is Newcombe's for paired shares, which is square and add on Wilson's intervals with the
    correlation of the pairs (Newcombe 1998, method 10); the test is McNemar's, in its exact form.
    """
    n = len(first)
    both, neither = int((first & second).sum()), int((~first & ~second).sum())
    b, c = int((first & ~second).sum()), int((~first & second).sum())
    one, other = wilson(both + b, n), wilson(both + c, n)
    margins = (both + b) * (c + neither) * (both + c) * (b + neither)
    product = both * neither - b * c
    product = max(product - n / 2, 0.0) if product > 0 else product
    phi = product / sqrt(margins) if margins else 0.0

    def reach(up: float, down: float) -> float:
        return sqrt(max(up * up - 2 * phi * up * down + down * down, 0.0))

    gap = one.value - other.value
    low = gap - reach(one.value - one.low, other.high - other.value)
    high = gap + reach(one.high - one.value, other.value - other.low)
    return Comparison(n, b, c, Share(gap, low, high), mcnemar(b, c))


def mcnemar(b: int, c: int) -> float:
    """The two-sided exact p-value of `b` against `c` discordant pairs: a fair coin's (McNemar 1947)."""
    tail = sum(comb(b + c, k) for k in range(min(b, c) + 1))
    return min(1.0, 2 * tail / 2 ** (b + c))
