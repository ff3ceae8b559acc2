"""The command line: what was asked for, and what is wrong with it. `quench.commands` does it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quench.errors import InvalidValue, UserError, one_of
from quench.parsers import parsers


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; the exit code is 2 for a user's mistake, 1 if runs failed, 130 if interrupted."""
    try:
        sys.exit(_run(list(sys.argv[1:] if argv is None else argv)))
    except UserError as error:
        sys.exit(_complain(str(error)))
    except KeyboardInterrupt:
        print("interrupted; what was recorded is kept", file=sys.stderr)
        sys.exit(130)


def _run(argv: list[str]) -> int:
    parser, commands = parsers()
    if not argv or argv[0].startswith("-"):
        parser.parse_args(argv or ["--help"])
    command = commands.get(argv[0])
    if command is None:
        raise InvalidValue("command", argv[0], one_of(argv[0], commands))
    own, changes = _split(argv[1:], command)
    takes_changes = argv[0] in ("train", "sweep", "scaling", "evaluate", "curve", "interpret", "doctor")
    if changes and not takes_changes:
        raise UserError(f"{argv[0]} takes no option --{next(iter(changes))}; see `quench {argv[0]} --help`")
    if argv[0] in ("train", "sweep", "scaling") and {"-h", "--help"} & {*own}:
        return _help(command, [word for word in own if word not in ("-h", "--help")], changes)
    arguments = command.parse_args(own)

    from quench import commands as do

    return getattr(do, argv[0])(arguments, changes)


def _split(argv: list[str], command: argparse.ArgumentParser) -> tuple[list[str], dict[str, Any]]:
    """The command's own words, and the rest: `--key value` or `--key=value`, for the recipe."""
    own: list[str] = []
    changes: dict[str, Any] = {}
    words = iter(argv)
    known = command._option_string_actions  # pyright: ignore[reportPrivateUsage]
    for word in words:
        flag, equals, value = word.partition("=")
        if not flag.startswith("--") or flag in known or flag == "--":
            own.append(word)
            if flag in known and not equals and known[flag].nargs is None:
                own.extend(w for w in [next(words, None)] if w is not None)
            continue
        given = value if equals else next(words, None)
        if given is None or (not equals and given.startswith("--")):
            raise UserError(f"{flag} needs a value: {flag} VALUE")
        changes[flag[2:].replace("-", "_")] = _parsed(given)
    return own, changes


def _parsed(text: str) -> Any:
    """`0.1`, `true`, `[1, 2]` as what they are; anything else is a text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _help(command: argparse.ArgumentParser, own: list[str], changes: dict[str, Any]) -> int:
    """The command's help, and the fields of the experiment if one is named."""
    command.print_help()
    if any(not word.startswith("-") for word in own):
        from quench.config import describe, override
        from quench.experiment import Experiment

        path: Path = command.parse_args(own).experiment
        print(f"fields of {path}:")
        for key, value, meaning in describe(override(Experiment.load(path).recipe, changes)):
            print(f"  --{key} {value}".ljust(44) + f" {meaning}")
    return 0


def _complain(message: str) -> int:
    print(f"quench: {message}", file=sys.stderr)
    return 2
