"""What MLflow shows people besides numbers: Markdown for a run, a sweep and a model, made from their records."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from quench.catalogue import name_of
from quench.config import encode
from quench.evaluation.intervals import Share
from quench.journal import Entry
from quench.record import Record

if TYPE_CHECKING:
    import pandas as pd

_ROWS = 30
"""of a sweep's table, at most; its CSV files have the rest"""


def run_note(record: Record) -> str:
    """What came of the run, and where the rest of it is."""
    lines = [_verdict(entry) for entry in record.entries("evaluation")]
    lines += [f"unreliable: {reason}" for reason in _doubts(record)]
    epochs = record.entries("epoch")
    if epochs:
        lines.append(f"{epochs[-1]['epoch']} epochs in {epochs[-1]['metrics']['train_seconds']:.1f} train seconds")
    lines.append(f"log, checkpoints and verdicts: `{record.directory}`")
    return "\n\n".join(lines)


def sweep_note(table: pd.DataFrame | None, models: Sequence[str]) -> str:
    """The trade-off, if a run has come to its end, and the registered models."""
    parts = ["No run has come to its end."] if table is None else [*_trade_off(table)]
    return "\n\n".join([*parts, *(f"Most robust on held-out images: `{model}`" for model in models)])


def _trade_off(table: pd.DataFrame) -> Iterator[str]:
    lines = [
        "| threat model | training | seeds | train seconds | clean | robust (min - max) |",
        "|---|---|---|---|---|---|",
    ]
    for row in table.head(_ROWS).to_dict("records"):
        name = f"**{row['configuration']}**" if row["on_front"] else row["configuration"]
        robust = f"{row['robust']:.1%} ({100 * row['robust_min']:.1f} - {100 * row['robust_max']:.1f})"
        cells = [row["threat"], name, row["seeds"], f"{row['train_seconds']:.1f}", f"{row['clean']:.1%}", robust]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    yield "\n".join(lines)
    if len(table) > _ROWS:
        yield f"{len(table) - _ROWS} more in `configurations.csv`."
    yield "Means over seeds, on the test images; bold: none is both faster and more robust."


def model_card(record: Record, data: Entry, among: int) -> str:
    """What the model is, against what it was trained, how far that can be trusted; `among` runs it was chosen from.

    `data` is `Data.about` of its images.
    """
    shape, classes = ", ".join(map(str, data["shape"])), data["classes"]
    names = f"{', '.join(classes[:_ROWS])}{', ...' if len(classes) > _ROWS else ''}"
    recipe, norm = record.recipe, name_of(record.recipe.threat.norm)
    ball = f"{recipe.threat}: every perturbation of {norm} norm up to {recipe.threat.epsilon:.6g}"
    sections = {
        record.name: f"Takes images `(N, {shape})`, float32 in [0, 1], and gives logits `(N, {len(classes)})`; it "
        f"normalises inside. Classes: {names}.",
        "Threat model": f"{ball} that leaves the pixels in [0, 1].",
        "Training": _training(record, data, among),
        "Evaluation": "\n".join(f"- {_verdict(entry)}" for entry in record.entries("evaluation"))
        + "\n\nIn eval mode and float32; intervals are Wilson's, 95 %. Attack at the end of the run: "
        f"`{json.dumps(encode(recipe.evaluation))}`.",
        "Reliability": "\n".join(f"- {doubt}" for doubt in _doubts(record)) or "No check raised a flag.",
    }
    first, *rest = (f"# {title}\n\n{text}\n" for title, text in sections.items())
    return "\n".join([first, *(f"#{section}" for section in rest)])


def _training(record: Record, data: Entry, among: int) -> str:
    recipe, last, about = record.recipe, record.entries("epoch")[-1], record.about
    chosen = f"Of {among} runs it had the highest robust accuracy on" if among > 1 else "It was watched on"
    return (
        f"{about['configuration']}, seed {recipe.seed}, on {data['train']['examples']} images of "
        f"{name_of(recipe.data)}: {last['epoch']} epochs, {last['metrics']['train_seconds']:.1f} train seconds. "
        f"{chosen} some of the {data['validation']['examples']} images held out of the training set; "
        f"test images had no part in it. Commit {about['commit']}, versions {json.dumps(about['versions'])}."
    )


def _verdict(entry: Entry) -> str:
    clean, robust = Share(**entry["clean"]), Share(**entry["robust"])
    of = f"{entry['examples']} test images, the {entry['checkpoint']} weights"
    return f"robust {robust} under {entry['label']}, clean {clean}, of {of} (epoch {entry['epoch']})"


def _doubts(record: Record) -> list[str]:
    """Each once."""
    found = [flag["reason"] for entry in record.entries("evaluation") for flag in entry.get("flags", ())]
    return list(dict.fromkeys(found))
