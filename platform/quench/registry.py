"""Models in MLflow: which runs' are kept there, and how. `tracking` writes everything else.

A run's model is logged once, linked to the run and to its images, and registered under experiment and threat model.
Not every run's: of a sweep, the most robust one's of each threat model; the others' weights stay where they are.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable
from importlib.metadata import version as installed
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from mlflow import MlflowClient, pyfunc
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS
from safetensors.torch import save_file

from quench import __version__
from quench.catalogue import name_of
from quench.config import encode, flatten
from quench.journal import Entry
from quench.mlflow_entries import Inputs, inputs_of, metrics_of
from quench.notes import model_card
from quench.record import Record
from quench.training.state import judged_weights

ALIAS = "best"
"""the most robust, on the held-out images, of a name's versions that were watched alike"""


class HeldOut(NamedTuple):
    """What a finished run may be chosen by: how robust the weights that it was judged by are on held-out images."""

    accuracy: float
    watched: str
    """under which attack and on which images: what must agree for accuracies to be compared"""


def held_out(record: Record) -> HeldOut | None:
    """Under the attack that sweeps choose by, if it had a look at these weights, else under the recipe's probe.

    None if the run has not finished, or its log, of an earlier version, does not say what it was watched on.
    """
    inputs = inputs_of(record, record.entries("status"))
    final = [entry for entry in record.entries("evaluation") if entry["final"]]
    if not final or inputs is None or record.status != "finished":
        return None
    seen = {entry["epoch"]: entry["metrics"] for entry in record.entries("epoch")}.get(final[-1]["epoch"], {})
    recipe, images = record.recipe, inputs.data["validation"]["digest"]
    for key, by in (("selection_accuracy", recipe.selection), ("robust_accuracy", recipe.probe)):
        if key in seen:
            return HeldOut(seen[key], f"{json.dumps(encode(by))} on {images}")
    return None


def most_robust(records: Iterable[Record]) -> dict[Record, int]:
    """Of the finished runs with one threat model and one way of being watched: the most robust, and of how many.

    By the held-out images, never by test images; of equals, the cheapest.
    """
    races: dict[tuple[str, str], list[tuple[float, float, Record]]] = {}
    for record in records:
        found = held_out(record)
        if found is not None:
            seconds = record.entries("epoch")[-1]["metrics"]["train_seconds"]
            race = races.setdefault((str(record.recipe.threat), found.watched), [])
            race.append((found.accuracy, -seconds, record))
    return {max(race, key=lambda row: row[:2])[-1]: len(race) for race in races.values()}


class Registry:
    """The models of one MLflow experiment."""

    def __init__(self, client: MlflowClient, experiment_id: str) -> None:
        self._client, self._experiment_id = client, experiment_id

    def register(self, record: Record, run: str, among: int = 1) -> str:
        """Find or make the version that is the model of this finished run; returns `models:/NAME/VERSION`.

        It was chosen `among` so many runs. Raises `UserError` if the weights cannot be had.
        """
        inputs, seen = inputs_of(record, record.entries("status")), held_out(record)
        assert inputs is not None, "it is one of `most_robust`"
        assert seen is not None
        name = re.sub(r"[^\w.-]+", "-", f"{record.about['experiment']}-{record.recipe.threat}")
        card = model_card(record, inputs.data, among)
        found = self._client.search_model_versions(f"name = '{name}' and run_id = '{run}'")
        version = found[0] if found else self._make(name, record, run, inputs, card, seen, among)
        if version.description != card:
            self._client.update_model_version(name, version.version, card)
            self._client.set_model_version_tag(name, version.version, "unreliable", _doubts(record))
        versions = self._client.search_model_versions(f"name = '{name}'")
        alike = [one for one in versions if one.tags.get("watched") == seen.watched]
        best = max(alike, key=lambda one: (float(one.tags["held_out_robust_accuracy"]), -int(one.version)))
        self._client.set_registered_model_alias(name, ALIAS, best.version)
        return f"models:/{name}/{version.version}"

    def refresh(self, record: Record, run: str) -> None:
        """Have the card of the run's model, if it was registered, say what the record has come to say since."""
        for version in self._client.search_model_versions(f"run_id = '{run}'"):
            self.register(record, run, int(version.tags["chosen_among"]))

    def _make(
        self, name: str, record: Record, run: str, inputs: Inputs, card: str, seen: HeldOut, among: int
    ) -> ModelVersion:
        final = [entry for entry in record.entries("evaluation") if entry["final"]][-1]
        model = self._logged(name, record, run, inputs, card, final)
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        tags = {
            **_about(record),
            "held_out_robust_accuracy": seen.accuracy,
            "test_robust_accuracy": final["robust"]["value"],
            "chosen_among": among,
            "watched": seen.watched,
            "unreliable": _doubts(record),
        }
        place = model.artifact_location
        version = self._client.create_model_version(name, place, run, tags, description=card, model_id=model.model_id)
        known = json.dumps([{"name": name, "version": version.version}])
        self._client.set_logged_model_tags(model.model_id, {MLFLOW_MODEL_VERSIONS: known})
        return version

    def _logged(self, name: str, record: Record, run: str, inputs: Inputs, card: str, final: Entry) -> LoggedModel:
        """The run's model with its files and its evaluation; a crash on the way leaves one that is begun again."""
        found = self._client.search_logged_models([self._experiment_id], f"source_run_id = '{run}'")
        params = {key: str(value)[:5000] for key, value in flatten(record.recipe).items()}
        model = (
            found[0]
            if found
            else self._client.create_logged_model(
                self._experiment_id, name.replace(".", "-"), run, _about(record), params, "robust classifier"
            )
        )
        if model.status == LoggedModelStatus.READY:
            return model
        with TemporaryDirectory() as folder:
            _save(Path(folder), model, record, inputs, card, final)
            self._client.log_model_artifacts(model.model_id, str(Path(folder) / "model"))
        self._client.log_outputs(run, [LoggedModelOutput(model.model_id, final["epoch"])])
        images = {"dataset_name": name_of(record.recipe.data), "dataset_digest": inputs.data["test"]["digest"]}
        shares = [
            Metric(one.key, one.value, one.timestamp, one.step, model_id=model.model_id, run_id=run, **images)
            for one in metrics_of([final])
        ]
        self._client.log_batch(run, metrics=shares)
        return self._client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)


def _save(folder: Path, model: LoggedModel, record: Record, inputs: Inputs, card: str, final: Entry) -> None:
    """MLflow's files for the model, in `folder`/model."""
    weights = judged_weights(record.checkpoint(final["checkpoint"]))
    save_file({key: value.contiguous() for key, value in weights.items()}, folder / "weights.safetensors")
    shape, classes = inputs.data["shape"], inputs.data["classes"]
    network = {"model": encode(record.recipe.model), "shape": shape, "classes": classes}
    (folder / "network.json").write_text(json.dumps(network, indent=2))
    pixels, logits = (TensorSpec(np.dtype("float32"), (-1, *sizes)) for sizes in (shape, [len(classes)]))
    about = Model(run_id=model.source_run_id, model_id=model.model_id, artifact_path=model.artifact_location)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no example of the input, which the signature describes
        pyfunc.save_model(
            folder / "model",
            python_model=str(Path(__file__).with_name("mlflow_model.py")),
            artifacts={"network": str(folder / "network.json"), "weights": str(folder / "weights.safetensors")},
            signature=ModelSignature(Schema([pixels]), Schema([logits])),
            pip_requirements=[f"quench=={__version__}", *map(_pinned, ("mlflow", "numpy", "safetensors", "torch"))],
            mlflow_model=about,
            metadata={"recipe": record.about["recipe"], "threat": str(record.recipe.threat), "evaluation": final},
        )
    (folder / "model" / "README.md").write_text(card)
    (folder / "model" / "recipe.json").write_bytes((record.directory / "recipe.json").read_bytes())


def _pinned(package: str) -> str:
    return f"{package}=={installed(package).partition('+')[0]}"


def _about(record: Record) -> dict[str, str]:
    recipe = record.recipe
    return {
        "run": record.name,
        "threat": str(recipe.threat),
        "norm": name_of(recipe.threat.norm),
        "epsilon": f"{recipe.threat.epsilon:.4g}",
        "method": name_of(recipe.method),
        "dataset": name_of(recipe.data),
        "commit": str(record.about["commit"]),
    }


def _doubts(record: Record) -> str:
    """The names of the flags that its evaluations have raised."""
    found = [flag["name"] for entry in record.entries("evaluation") for flag in entry.get("flags", ())]
    return ", ".join(dict.fromkeys(found))
