"""Frozen dataclasses as plain data, and back: what recipe files, flags and sweeps all go through.

A plug-in is encoded with its `name` (`{"name": "n_fgsm", "noise_ratio": 2.0, ...}`) and may be
given by the name alone. Numbers may be given as the field writes them (`"8/255"`). Whatever
cannot be decoded is refused with an `InvalidValue` whose key is dotted from the root.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any, Literal, TypeVar, cast, get_args, get_origin

from cattrs import BaseValidationError, Converter, transform_error
from cattrs.errors import AttributeValidationNote, ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn

from quench.catalogue import Plugin, is_family, members, name_of
from quench.errors import InvalidValue, nearest, one_of

T = TypeVar("T")


def encode(value: object) -> Any:
    """Plain dicts, lists, strings and numbers, ready for JSON."""
    return _CONVERTER.unstructure(value)


def decode(kind: type[T], data: object) -> T:
    """The inverse of `encode`; raises `InvalidValue` for what `kind` cannot hold."""
    try:
        return _CONVERTER.structure(data, kind)
    except BaseValidationError as error:
        raise _refusal(error, "") from None


def override(value: T, changes: Mapping[str, object]) -> T:
    """A copy of `value` with dotted keys replaced: `{"threat.epsilon": "8/255", "method": "pgd"}`.

    Changes are made from the outside in, so that `method.steps` finds the `method` given beside it, and
    checked together, so that fields that must agree can change at once.
    """
    data = encode(value)
    for key in sorted(changes, key=lambda key: key.count(".")):
        _set(data, key, _with_own_fields(value, key, changes))
    return decode(type(value), data)


def _with_own_fields(value: object, key: str, changes: Mapping[str, object]) -> object:
    """The change of `key`; where it names a plug-in, that with all its fields: those given for it, and the defaults.

    Some plug-ins cannot be made without the former: an image folder has no default place.
    """
    held: Any = value
    for step in key.split("."):
        held = getattr(held, step, None)
    new = changes[key]
    if not isinstance(held, Plugin) or not isinstance(new, str):
        return new
    family: type[Plugin] = type(held).__bases__[0]
    if new not in members(family):
        return new
    names = [field.name for field in fields(cast("Any", members(family)[new]))]
    given = {name: encode(changes[f"{key}.{name}"]) for name in names if f"{key}.{name}" in changes}
    try:
        return _plugin_from_data({"name": new, **given}, family)
    except (BaseValidationError, InvalidValue) as error:
        raise _refusal(error, key) from None


def flatten(value: object) -> dict[str, Any]:
    """One dotted key per leaf, plug-ins by name: `{"method": "n_fgsm", "method.noise_ratio": 2.0}`."""
    return dict(_leaves(encode(value), ""))


def describe(value: object, path: str = "") -> Iterator[tuple[str, str, str]]:
    """(dotted key, value, meaning) of every field, plug-ins with their own; meanings stand under the fields."""
    for field in fields(cast("Any", value)):
        inner, key = getattr(value, field.name), f"{path}.{field.name}".lstrip(".")
        plain = encode(inner)
        meaning = _meanings(type(value)).get(field.name, "")
        if isinstance(inner, Plugin):
            yield key, name_of(inner), f"{meaning}: one of {', '.join(members(type(inner).__bases__[0]))}"
        elif not is_dataclass(inner):
            yield key, str(plain), meaning
        if is_dataclass(inner):
            yield from describe(inner, key)


def _meanings(kind: type) -> dict[str, str]:
    """The string under each field of a dataclass's source."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    lines = cast("ast.ClassDef", tree).body
    return {
        before.target.id: after.value.value
        for before, after in pairwise(lines)
        if isinstance(before, ast.AnnAssign)
        and isinstance(before.target, ast.Name)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
        and isinstance(after.value.value, str)
    }


def _leaves(data: object, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(data, dict):
        for key, inner in cast("dict[str, object]", data).items():
            yield from _leaves(inner, path if key == "name" else f"{path}.{key}".lstrip("."))
    else:
        yield path, data


def _set(data: dict[str, Any], key: str, new: object) -> None:
    *holders, last = key.split(".")
    node: Any = data
    for holder in holders:
        node = node.get(holder) if isinstance(node, dict) else None
    if not isinstance(node, dict) or last not in node or last == "name":
        known = dict(_leaves(data, ""))
        where = ".".join(holders) if isinstance(node, dict) else ""
        near = sorted(k for k in (node if isinstance(node, dict) else data) if k != "name")
        owner = where or "the top level"
        has = f"{owner} has {', '.join(near)}" if near else f"{owner} has no fields"
        raise InvalidValue(key, new, f"no such field; {has}{nearest(key, known)}")
    node[last] = encode(new)


def _plugin_to_data(plugin: Plugin) -> dict[str, Any]:
    inner = {f.name: encode(getattr(plugin, f.name)) for f in fields(cast("Any", plugin))}
    return {"name": name_of(plugin), **inner}


def _plugin_from_data(data: Any, family: type[Plugin]) -> Plugin:
    if isinstance(data, family):
        return data
    given = {"name": data} if isinstance(data, str) else data
    if not isinstance(given, Mapping) or "name" not in given:
        raise InvalidValue("", data, f"must name a {family.__name__.lower()}: {', '.join(members(family))}")
    rest = dict(cast("Mapping[str, Any]", given))
    name = str(rest.pop("name"))
    if name not in members(family):
        raise InvalidValue("", name, one_of(name, members(family)))
    return _CONVERTER.structure(rest, members(family)[name])


def _number(data: Any, _: object) -> float:
    if isinstance(data, str):
        try:
            return float(Fraction(data.replace(" ", "")))
        except (ValueError, ZeroDivisionError):
            raise InvalidValue("", data, "must be a number or a fraction such as 8/255") from None
    if isinstance(data, bool) or not isinstance(data, (int, float)):
        raise InvalidValue("", data, "must be a number or a fraction such as 8/255")
    return float(data)


def _exactly(kind: type) -> Any:
    def check(data: Any, _: object) -> Any:
        if type(data) is not kind:
            raise InvalidValue("", data, "must be a whole number" if kind is int else "must be true or false")
        return data

    return check


def _text(data: Any, _: object) -> str:
    """A text; a whole number too, as that is what a flag makes of a folder called 2024."""
    if not isinstance(data, str) and type(data) is not int:
        raise InvalidValue("", data, "must be a text")
    return str(data)


def _literal(data: Any, kind: Any) -> Any:
    valid = get_args(kind)
    if data not in valid:
        raise InvalidValue("", data, one_of(str(data), map(str, valid)))
    return data


def _dataclass(kind: Any) -> Any:
    """How to structure a dataclass; cattrs' own way fails with an error of Python's on what is no mapping."""
    structure = make_dict_structure_fn(kind, _CONVERTER, _cattrs_forbid_extra_keys=True)

    def from_mapping(data: Any, _: object) -> Any:
        if not isinstance(data, Mapping):
            names = ", ".join(field.name for field in fields(kind))
            raise InvalidValue("", data, f"has fields of its own, which are given one by one: {names}")
        return structure(cast("Mapping[str, Any]", data), kind)

    return from_mapping


def _tuple(data: Any, kind: Any) -> tuple[Any, ...]:
    """`tuple[X, ...]`; a text is not a list of its letters."""
    if not isinstance(data, (list, tuple)):
        raise InvalidValue("", data, "must be a list, such as [1, 2]")
    return tuple(_CONVERTER.structure(item, get_args(kind)[0]) for item in cast("list[object]", data))


def _refusal(error: BaseException, path: str) -> InvalidValue:
    """The first leaf of cattrs' tree of errors, as our one line."""
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            path = f"{path}.{note.name}".lstrip(".")
    if isinstance(error, BaseValidationError):
        return _refusal(error.exceptions[0], path)
    if isinstance(error, InvalidValue):
        return InvalidValue(f"{path}.{error.key}".strip("."), error.value, error.allowed)
    if isinstance(error, ForbiddenExtraKeysError):
        extra = sorted(error.extra_fields)[0]
        known = [f.name for f in fields(error.cl)] if is_dataclass(error.cl) else []
        key = f"{path}.{extra}".lstrip(".")
        return InvalidValue(key, "...", f"no such field; {', '.join(known)} are{nearest(extra, known)}")
    if isinstance(error, KeyError):
        return InvalidValue(path, None, "is required")
    return InvalidValue(path, "...", transform_error(error)[0].removesuffix(" @ $"))


_CONVERTER = Converter(forbid_extra_keys=True, detailed_validation=True)
_CONVERTER.register_unstructure_hook_func(
    lambda kind: isinstance(kind, type) and issubclass(kind, Plugin), _plugin_to_data
)
_CONVERTER.register_structure_hook_factory(is_dataclass, _dataclass)
_CONVERTER.register_structure_hook_func(is_family, _plugin_from_data)
_CONVERTER.register_structure_hook_func(lambda kind: get_origin(kind) is Literal, _literal)
_CONVERTER.register_structure_hook_func(lambda kind: get_origin(kind) is tuple, _tuple)
_CONVERTER.register_structure_hook(float, _number)
for _kind in (int, bool):
    _CONVERTER.register_structure_hook(_kind, _exactly(_kind))
_CONVERTER.register_structure_hook(str, _text)
