"""What can be evaluated: a run that was trained here, or any PyTorch model."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import nn

from quench import trial
from quench.config import encode
from quench.datasets import Dataset, Examples
from quench.durable import write_json
from quench.errors import InvalidValue, UserError, one_line, require
from quench.record import Checkpoint, Record
from quench.threat_model import ThreatModel
from quench.verdicts import digest


class Loaded(NamedTuple):
    """On its device: pixels in [0, 1] -> logits, and the images to judge it by."""

    model: nn.Module
    test: Examples


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model that can be loaded on any worker, and a folder that remembers what was found out about it."""

    name: str
    folder: Path
    data: Dataset
    threat: ThreatModel | None
    """to be judged by, unless others are named"""
    seed: int
    batch_size: int
    load: Callable[[torch.device], Loaded]
    """can be pickled; raises `UserError` if the model cannot be had"""


def trained_run(record: Record, checkpoint: Checkpoint) -> Subject:
    """A run of quench, as one of its checkpoints has it."""
    recipe = record.recipe
    return Subject(
        name=record.name,
        folder=record.directory,
        data=recipe.data,
        threat=recipe.threat,
        seed=recipe.seed,
        batch_size=recipe.batch_size,
        load=partial(_restored, record.directory, checkpoint),
    )


def _restored(directory: Path, checkpoint: Checkpoint, device: torch.device) -> Loaded:
    state, data = trial.restore(Record(directory), checkpoint, device)
    return Loaded(state.judged, data.test.to(device))


def any_model(entry: str, weights: Path | None, data: Dataset, storage: Path, batch_size: int) -> Subject:
    """A model of one's own: `entry` is `module:function`, which returns it; pixels in [0, 1] -> logits.

    The module may lie in the working directory. `weights` are safetensors, or a state dict saved by torch.
    Its folder in `storage` is named after function and weights.
    """
    require(batch_size > 0, "batch_size", batch_size, "must be 1 or more")
    load = partial(_built, entry, weights and weights.resolve(), data, Path.cwd())
    weights_sha256 = digest(load(torch.device("cpu")).model)
    name = f"{entry.rpartition(':')[2]}-{weights_sha256[:8]}"
    folder = (storage / name).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    about = {"model": entry, "weights": str(weights), "weights_sha256": weights_sha256, "data": encode(data)}
    write_json(folder / "model.json", about)
    return Subject(name=name, folder=folder, data=data, threat=None, seed=0, batch_size=batch_size, load=load)


def _built(entry: str, weights: Path | None, data: Dataset, directory: Path, device: torch.device) -> Loaded:
    module, colon, function = entry.partition(":")
    if not colon or not function:
        raise InvalidValue("model", entry, "must be module:function, a function that returns a torch.nn.Module")
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # random weights are the same wherever the model is loaded
            model = getattr(importlib.import_module(module), function)()
    except Exception as error:
        raise UserError(f"--model {entry}: {one_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise InvalidValue("model", entry, f"must return a torch.nn.Module, not {type(model).__name__}")
    if weights is not None:
        try:
            state = load_file(weights) if weights.suffix == ".safetensors" else torch.load(weights, weights_only=True)
            model.load_state_dict(state)
        except Exception as error:
            raise UserError(f"--weights {weights}: {one_line(error)}") from None
    _, test, _ = data.splits()
    model = model.eval().to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return Loaded(model, test.to(device))
