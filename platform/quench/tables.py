"""Frames as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table
from rich.text import Text

from quench.catalogue import name_of
from quench.cost import Estimate
from quench.evaluation.intervals import Comparison, Share

if TYPE_CHECKING:
    import pandas as pd

_SCALING_COLUMNS = ("scaling", "workers", "batch", "seeds", "train s", "speed-up", "efficiency", "gpu s", "robust")
_MOST_ROWS = 12
_TRADE_OFF_COLUMNS = ("threat", "method", "seeds", "train s", "clean", "robust (min - max)", "behind", "faster")


def trade_off_table(frame: pd.DataFrame) -> Table:
    """`analysis.trade_off.configurations` for people: those on the Pareto front marked, and of many only the best."""
    whole, frame = frame, frame.loc[frame.groupby("threat")["robust"].rank(ascending=False) <= _MOST_ROWS]
    table = Table(
        *(Column(name, no_wrap=name != "method") for name in _TRADE_OFF_COLUMNS),
        title="Train seconds against robust accuracy on the test images; * on the Pareto front",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    last = None
    for row in frame.to_dict("records"):
        if last not in (None, row["threat"]):
            table.add_section()
        last = row["threat"]
        table.add_row(
            str(row["threat"]),
            f"{row['configuration']} {'*' if row['on_front'] else ''}",
            _seeds(row),
            f"{row['train_seconds']:.2f}",
            f"{row['clean']:.1%}",
            f"{row['robust']:.1%} ({100 * row['robust_min']:.1f} - {100 * row['robust_max']:.1f})",
            f"{100 * row['behind_best']:.1f}",
            f"{row['faster_than_best']:.1f}x",
        )
    lost = "\nlost: to catastrophic overfitting, and in the means nevertheless" if frame["lost"].any() else ""
    doubted = "\nunreliable: by a flag of the evaluation; runs.csv says which" if frame["unreliable"].any() else ""
    faster = "behind, faster: points of robust accuracy, and train seconds, to the most robust method"
    more = len(whole) - len(frame)
    left_out = f"\nnot shown: {more} that are less robust; configurations.csv has them" if more else ""
    table.caption = faster + lost + doubted + left_out
    table.caption_justify = "left"
    return table


def confirmed_table(frame: pd.DataFrame) -> Table:
    """`analysis.confirmed.confirmed_frame` for people."""
    table = Table(
        *("threat", "method", "found", "again", "seeds", "train s", "clean", "robust [95 %]"),
        title="The finalists, trained again on seeds that they were not chosen by",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for row in frame.to_dict("records"):
        table.add_row(
            str(row["threat"]),
            str(row["configuration"]),
            f"{row['found']:.1%}",
            f"{row['again']:.1%}",
            _seeds(row),
            f"{row['train_seconds']:.2f}",
            f"{row['clean']:.1%}",
            str(Share(row["robust"], row["robust_low"], row["robust_high"])),
        )
    table.caption = (
        "found, again: robust on held-out images, when it was chosen and on fresh seeds, by which these are ordered\n"
        "clean, robust: on the test images, means of the fresh runs and of their intervals' bounds"
    )
    table.caption_justify = "left"
    return table


def _seeds(row: Mapping[Any, Any]) -> str:
    """`5, 1 lost`"""
    return ", ".join([str(row["seeds"]), *(f"{row[key]} {key}" for key in ("lost", "unreliable") if row[key])])


def comparison_table(first: str, second: str, found: Mapping[str, Mapping[str, Comparison]]) -> Table:
    """Evaluation -> what (clean, robust) -> the paired comparison."""
    table = Table(
        *("evaluation", "", "images", f"only {first}", f"only {second}", "difference [95 %]", "p (McNemar)"),
        title=f"{first} less {second}, image by image; only: images that the other gets wrong",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    for name, parts in found.items():
        for what, it in parts.items():
            gap = "{:+.1%} [{:+.1%}, {:+.1%}]".format(*it.difference)
            cells = (name, what, str(it.n), str(it.only_first), str(it.only_second), gap, f"{it.p_value:.2g}")
            table.add_row(*map(Text, cells))
    return table


def curve_table(frame: pd.DataFrame) -> Table:
    """`analysis.curves.curve_frame` for people: a row for each epsilon, a column for each run."""
    runs = list(dict.fromkeys(frame["run"]))
    title = f"Robust accuracy on {frame['examples'].max()} test images, 95 % intervals"
    table = Table("threat", *runs, title=title, title_justify="left", box=SIMPLE_HEAD)
    for threat, part in frame.groupby("threat", sort=False):
        shares = {
            row["run"]: Share(row["robust"], row["robust_low"], row["robust_high"]) for row in part.to_dict("records")
        }
        table.add_row(str(threat), *(str(shares[run]) for run in runs))
    return table


def scaling_table(frame: pd.DataFrame) -> Table:
    """`analysis.scaling.scaling_frame` for people."""
    table = Table(
        *_SCALING_COLUMNS,
        title="What more workers buy; strong: the same batch, weak: the same share of it for each worker",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for row in frame.to_dict("records"):
        table.add_row(
            *(str(row[key]) for key in ("mode", "workers", "batch_size", "seeds")),
            f"{row['train_seconds']:.2f}",
            f"{row['speedup']:.2f}x",
            f"{row['efficiency']:.0%}",
            f"{row['gpu_seconds']:.2f}",
            str(Share(row["robust"], row["robust_low"], row["robust_high"])),
        )
    return table


def cost_table(names: Sequence[str], estimate: Estimate, at_once: int, most: int = 10) -> Table:
    """What trials of these names will cost, `at_once` of them at a time: the first `most`, and all together."""
    table = Table(
        *("trial", "threat", "seed", "budget", "TFLOP", "train s", "judging s", "all s"),
        title=f"{len(names)} trials" if len(names) <= most else f"{len(names)} trials, of which the first {most}",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for name, cost in zip(names[:most], estimate.costs, strict=False):
        recipe, budget = cost.recipe, cost.recipe.budget
        cells = (name, str(recipe.threat), str(recipe.seed), f"{budget.amount:g} {name_of(budget)}")
        numbers = (cost.train_seconds, cost.seconds - cost.train_seconds, cost.seconds)
        table.add_row(*map(Text, cells), f"{cost.flops / 1e12:.4g}", *(f"{number:.1f}" for number in numbers))
    table.caption = (
        f"together {_duration(estimate.worker_seconds)} of workers' time; {at_once} at a time, "
        f"over in {_duration(estimate.wall_seconds(at_once))}\n"
        f"at the speed of {estimate.machine}; judging: as if no image were fooled, so rather less"
    )
    table.caption_justify = "left"
    return table


def _duration(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
