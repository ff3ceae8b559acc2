"""Constraints as data: a comparison of a recipe's numbers, `"method.step_ratio * threat.epsilon <= 10/255"`."""

from __future__ import annotations

import ast
import operator
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

from quench.errors import InvalidValue, nearest

_OPERATORS: Mapping[type[ast.AST], Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


def check(constraint: str, known: Collection[str] | None = None) -> None:
    """Raise `InvalidValue` if it is no comparison, or, if these are given, has a key that is not `known`."""
    tree = _parsed(constraint)
    for node in ast.walk(tree):
        key = _key(node)
        if key is not None and known is not None and not any(f"{one}.".startswith(f"{key}.") for one in known):
            raise InvalidValue("constraints", constraint, f"{key}: no such field{nearest(key, known)}")
    if not isinstance(tree, (ast.Compare, ast.BoolOp)):
        raise InvalidValue("constraints", constraint, "must compare two sides, such as optimizer.lr <= 0.1")


def holds(constraint: str, values: Mapping[str, Any]) -> bool:
    """Whether it is so for a recipe, flat as `config.flatten` makes it. One that names what this has not says nothing.

    Raises `InvalidValue` where values cannot be compared.
    """
    try:
        return bool(_value(_parsed(constraint), values))
    except KeyError:
        return True
    except (TypeError, ZeroDivisionError, OverflowError) as error:
        raise InvalidValue("constraints", constraint, f"cannot be computed: {error}") from None


@cache
def _parsed(constraint: str) -> ast.expr:
    try:
        tree = ast.parse(constraint, mode="eval").body
    except SyntaxError as error:
        raise InvalidValue("constraints", constraint, f"is no comparison: {error.msg}") from None
    for node in ast.walk(tree):
        plain = isinstance(node, (ast.Compare, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.And, ast.Or, ast.Load))
        plain = plain or type(node) in _OPERATORS or isinstance(node, (ast.Name, ast.Attribute))
        plain = plain or (isinstance(node, ast.Constant) and isinstance(node.value, (int, float, str)))
        if not plain:
            allowed = "may hold dotted keys, numbers, texts, + - * / ** and comparisons, and, or"
            raise InvalidValue("constraints", constraint, allowed)
    return tree


def _value(node: ast.AST, values: Mapping[str, Any]) -> Any:
    key = _key(node)
    if key is not None:
        return values[key]
    match node:
        case ast.Constant(value):
            return value
        case ast.UnaryOp(op, operand):
            return _OPERATORS[type(op)](_value(operand, values))
        case ast.BinOp(left, op, right):
            return _OPERATORS[type(op)](_value(left, values), _value(right, values))
        case ast.BoolOp(op, parts):
            return (all if isinstance(op, ast.And) else any)(_value(part, values) for part in parts)
        case ast.Compare(left, ops, right):
            sides = [_value(side, values) for side in (left, *right)]
            return all(_OPERATORS[type(op)](a, b) for op, a, b in zip(ops, sides, sides[1:], strict=False))
        case _:
            raise TypeError(ast.unparse(node))


def _key(node: ast.AST) -> str | None:
    """`a.b.c`, if that is what the node says."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (holder := _key(node.value)) is not None:
        return f"{holder}.{node.attr}"
    return None
