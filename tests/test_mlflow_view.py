from __future__ import annotations

import base64
import json
import zlib

from quench.mlflow_view import VIEW, view_tag
from quench.training.loop import EpochReport


def test_the_preset_draws_metrics_that_are_reported() -> None:
    view = json.loads(view_tag()[f"mlflow.sharedViewState.{VIEW}"])
    kind, _, packed = view["state"].partition(";")
    assert kind == "deflate"
    state = json.loads(zlib.decompress(base64.b64decode(packed)))
    reported = set(EpochReport.__dataclass_fields__)
    for chart in state["compareRunCharts"]:
        if chart["type"] == "LINE":
            used = {chart["metricKey"], chart["selectedXAxisMetricKey"]}
        else:
            used = {chart["xaxis"]["key"], chart["yaxis"]["key"]}
        assert used <= reported
        assert chart["metricSectionId"] == state["compareRunSections"][0]["uuid"]
    assert len(view_tag()[f"mlflow.sharedViewState.{VIEW}"]) < 5000, "the limit of an experiment's tag"
