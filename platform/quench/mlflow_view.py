"""A preset of the MLflow UI's pages of an experiment: accuracy over train seconds, and what was swept.

The UI keeps such a preset as a tag of the experiment, in a format of its own that it does not
document (seen in MLflow 3.17). If a later release reads it otherwise, the page opens as usual.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from quench.config import flatten
from quench.training.recipe import Recipe

if TYPE_CHECKING:
    from mlflow.entities import Experiment

_VIEW = "mlflow.sharedViewState.quench"
_TIME, _SWEPT = "quench-time", "quench-swept"


def view_tag(recipes: Iterable[Recipe] = ()) -> dict[str, str]:
    """The experiment's tags that hold the preset, for a sweep of these, and open its page on training runs."""
    swept = _swept(recipes)
    metrics = ["train_seconds", "clean_accuracy", "robust_accuracy"]
    columns = [f"metrics.`{key}`" for key in (*metrics, "test_robust_accuracy")]
    state = {
        # Sorting by a metric lists children without their parents, so that their charts show at once.
        "orderByKey": "metrics.`robust_accuracy`",
        "orderByAsc": False,
        "searchFilter": "",
        "runsHiddenMode": "SHOW_ALL",
        "selectedColumns": [*columns, *(f"params.`{key}`" for key in swept), "attributes.`Models`"],
        "compareRunCharts": [
            _line("robust_accuracy"),
            _line("clean_accuracy"),
            _scatter("train_seconds", "robust_accuracy"),
            _scatter("clean_accuracy", "robust_accuracy"),
            _chart("PARALLEL", _SWEPT)
            # The last one colours the lines.
            | {"selectedParams": swept, "selectedMetrics": metrics, "showAllRuns": True},
        ],
        "compareRunSections": [
            _section(_TIME, "Time versus robustness", columns=2),
            _section(_SWEPT, "What was swept", columns=1),
        ],
        "isAccordionReordered": True,
        "globalLineChartConfig": {
            "xAxisKey": "metric",
            "lineSmoothness": 0,
            "selectedXAxisMetricKey": "train_seconds",
        },
    }
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    view = {"name": "Robust accuracy over train seconds", "createdAt": 0, "updatedAt": 0, "state": f"deflate;{packed}"}
    return {_VIEW: json.dumps(view), "mlflow.experimentKind": "custom_model_development"}


def pages(experiments: Iterable[Experiment]) -> dict[str, str]:
    """The chart page of every experiment that has the preset, after the host."""
    query = f"workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey={_VIEW.rpartition('.')[2]}"
    return {e.name: f"/#/experiments/{e.experiment_id}/runs?{query}" for e in experiments if _VIEW in e.tags}


def _swept(recipes: Iterable[Recipe]) -> list[str]:
    """What differs between them, but for the seed, and all of them have: the UI draws no run that lacks one.

    More axes than eight nobody reads.
    """
    params = [{key: str(value) for key, value in flatten(recipe).items()} for recipe in recipes]
    shared = [key for key in params[0] if all(key in other for other in params)] if params else []
    return [key for key in shared if key != "seed" and len({each[key] for each in params}) > 1][:8]


def _section(name: str, title: str, *, columns: int) -> dict[str, Any]:
    shown = {"display": True, "isReordered": True, "deleted": False, "isGenerated": False}
    return {"uuid": name, "name": title, "columns": columns, "cardHeight": 380} | shown


def _chart(kind: str, section: str, *metrics: str) -> dict[str, Any]:
    return {
        "uuid": "-".join([section, kind, *metrics]),
        "type": kind,
        "runsCountToCompare": 100,
        "metricSectionId": section,
        "deleted": False,
        "isGenerated": False,
    }


def _scatter(x: str, y: str) -> dict[str, Any]:
    """The runs' last values."""
    axes = {name: {"key": key, "type": "METRIC"} for name, key in (("xaxis", x), ("yaxis", y))}
    return _chart("SCATTER", _TIME, x, y) | axes


def _line(metric: str) -> dict[str, Any]:
    return _chart("LINE", _TIME, metric) | {
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "lineSmoothness": 0,
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "xAxisKey": "metric",
        "selectedXAxisMetricKey": "train_seconds",
        "range": {},
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "ignoreOutliers": False,
        "useGlobalXaxisKey": False,
        "useGlobalLineSmoothing": True,
    }
