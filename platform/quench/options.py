"""Options that several commands have, and what their values may be."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from quench.errors import UserError, redacted


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as everything here does."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see `{self.prog} --help`")


def concurrent_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--concurrent", type=int, metavar="N", help="trials at the same time (default: what fits)")
    command.add_argument(
        "--time-budget",
        type=_duration,
        metavar="TIME",
        help="interrupt the sweep after 90s, 30m or 2h of wall-clock time",
    )


def storage_options() -> Parser:
    options = Parser(add_help=False)
    options.add_argument(
        "--storage",
        type=Path,
        default=Path(os.environ.get("QUENCH_STORAGE", "runs")),
        metavar="DIR",
        help="folder of runs and of the MLflow database; on a cluster, one that every node sees (default: "
        "$QUENCH_STORAGE or runs)",
    )
    options.add_argument(
        "--tracking-uri",
        type=_without_password,
        metavar="URI",
        help="MLflow server or database (default: $MLFLOW_TRACKING_URI or a SQLite file in the storage folder)",
    )
    return options


def _without_password(uri: str) -> str:
    """Command lines are seen by every user of the machine, and kept by Ray of its jobs."""
    if urlsplit(uri).password is not None:
        raise UserError(f"--tracking-uri {redacted(uri)}: must hold no password; set MLFLOW_TRACKING_URI to it instead")
    return uri


def ray_options() -> Parser:
    options = Parser(add_help=False)
    options.add_argument(
        "--address",
        default="local",
        metavar="ADDRESS",
        help="Ray cluster: local (one of our own, the default), auto, or ray://HOST:10001",
    )
    options.add_argument(
        "--worker-timeout",
        type=_seconds,
        default=600.0,
        metavar="SECONDS",
        help="replace data-parallel workers after one has kept the others waiting so long (default: 600)",
    )
    return options


def _duration(text: str) -> float:
    """`90`, `90s`, `30m`, `2h` or `1d`, in seconds."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    number, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1)
    try:
        return _seconds(number) * unit
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a time such as 90s, 30m or 2h") from None


def _seconds(text: str) -> float:
    """A number above 0."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number above 0")
    return seconds
