"""A preset of the MLflow UI's chart page: accuracy over train seconds instead of over steps.

The UI keeps such a preset as a tag of the experiment, in a format of its own that it does not
document (seen in MLflow 3.17). If a later release reads it otherwise, the page opens as usual.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow.entities import Experiment

_VIEW = "mlflow.sharedViewState.quench"
_SECTION = "quench-charts"


def view_tag() -> dict[str, str]:
    """The experiment's tags that hold the preset and open its page on training runs."""
    state = {
        # Sorting by a metric lists children without their parents, so that their charts show at once.
        "orderByKey": "metrics.`robust_accuracy`",
        "orderByAsc": False,
        "searchFilter": "",
        "runsHiddenMode": "FIRST_20_RUNS",
        "compareRunCharts": [
            _line("robust", "robust_accuracy", "Robust accuracy (held-out images) over train seconds"),
            _line("clean", "clean_accuracy", "Clean accuracy (held-out images) over train seconds"),
            _chart("scatter", "SCATTER", "Robust accuracy against train seconds, at the end")
            | {"xaxis": _metric("train_seconds"), "yaxis": _metric("robust_accuracy")},
            _chart("both", "SCATTER", "Robust against clean accuracy, at the end")
            | {"xaxis": _metric("clean_accuracy"), "yaxis": _metric("robust_accuracy")},
        ],
        "compareRunSections": [
            {"uuid": _SECTION, "name": "Time versus robustness", "display": True, "isReordered": True, "deleted": False}
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


def _metric(key: str) -> dict[str, str]:
    return {"key": key, "type": "METRIC"}


def _chart(name: str, kind: str, title: str) -> dict[str, Any]:
    return {
        "uuid": f"quench-{name}",
        "type": kind,
        "runsCountToCompare": 100,
        "metricSectionId": _SECTION,
        "deleted": False,
        "isGenerated": False,
        "displayName": title,
    }


def _line(name: str, metric: str, title: str) -> dict[str, Any]:
    return _chart(name, "LINE", title) | {
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
