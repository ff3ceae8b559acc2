"""One plug-in per file: which names a family knows, and the class each of them stands for.

A family is an abstract class in a package's `__init__` that lists `Plugin` among its bases; its
members are the final classes in the modules of that package, one in each, and a member's name is
its file's. Nothing registers itself: a new file is found because it is there.
"""

from __future__ import annotations

import inspect
import pkgutil
from abc import ABC
from functools import cache
from importlib import import_module
from typing import TypeVar

T = TypeVar("T", bound="Plugin")


class Plugin(ABC):  # noqa: B024 - a mark for families; the abstract methods are theirs
    """A family of interchangeable parts, such as the norms or the training methods."""


def is_family(kind: object) -> bool:
    """Whether `kind` is a family's abstract class (`Geometry`, `Method`, ...)."""
    return isinstance(kind, type) and Plugin in kind.__bases__


@cache
def members(family: type[T]) -> dict[str, type[T]]:
    """Name -> class of every plug-in in the package that defines `family`."""
    package = import_module(family.__module__)
    found: dict[str, type[T]] = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = import_module(f"{package.__name__}.{info.name}")
        for value in vars(module).values():
            if inspect.isclass(value) and value.__module__ == module.__name__ and issubclass(value, family):
                if info.name in found:
                    raise TypeError(f"{module.__name__} defines two {family.__name__} classes; one file, one plug-in")
                found[info.name] = value
    return found


def name_of(plugin: Plugin | type[Plugin]) -> str:
    """The name of a plug-in: its module's, e.g. `n_fgsm`."""
    kind = plugin if isinstance(plugin, type) else type(plugin)
    return kind.__module__.rpartition(".")[2]
