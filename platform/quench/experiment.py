"""An experiment file: Python that defines `RECIPE`, and `SWEEP` if it can be swept."""

from __future__ import annotations

import runpy
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from quench.config import decode, encode
from quench.errors import InvalidValue, UserError, nearest
from quench.sweep import Sweep
from quench.training.recipe import Recipe


@dataclass(frozen=True)
class Experiment:
    """What an experiment file defines; `name` is the file's."""

    name: str
    path: Path
    recipe: Recipe
    sweep: Sweep | None

    @staticmethod
    def load(path: Path) -> Experiment:
        """Run the file. Raises `UserError` if there is none, if it fails or defines no recipe."""
        if not path.is_file():
            raise InvalidValue("experiment", str(path), f"no such file{nearest(str(path), _around(path))}")
        sys.path.insert(0, str(path.parent.resolve()))  # so that an experiment can build on its neighbours
        try:
            defined = runpy.run_path(str(path))
        except Exception as error:
            lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
            line = error.lineno if isinstance(error, SyntaxError) else (lines[-1] if lines else 1)
            raise UserError(f"{path}:{line}: {type(error).__name__}: {error}") from error
        finally:
            sys.path.pop(0)
        recipe, sweep = defined.get("RECIPE"), defined.get("SWEEP")
        if not isinstance(recipe, Recipe):
            raise UserError(f"{path}: defines no RECIPE = Recipe(...)")
        if not isinstance(sweep, Sweep | None):
            raise UserError(f"{path}: SWEEP must be a Sweep(...), not {type(sweep).__name__}")
        return Experiment(path.stem, path, decode(Recipe, encode(recipe)), sweep)  # Python has checked no types


def _around(path: Path) -> Iterable[str]:
    folder = path.parent if path.parent.is_dir() else Path("experiments")
    return [str(p) for p in folder.glob("*.py")]
