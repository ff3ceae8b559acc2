from __future__ import annotations

import base64
import json
import zlib

from quench.mlflow_view import view_tag
from quench.training.loop import EpochReport


def test_the_preset_draws_metrics_that_are_reported() -> None:
    tag = view_tag()["mlflow.sharedViewState.quench"]
    view = json.loads(tag)
    kind, _, packed = view["state"].partition(";")
    assert kind == "deflate"
    state = json.loads(zlib.decompress(base64.b64decode(packed)))
    reported = set(EpochReport.__dataclass_fields__)
    for chart in state["compareRunCharts"]:
        if chart["type"] == "LINE":
            used = {chart["metricKey"], chart["selectedXAxisMetricKey"]}
        elif chart["type"] == "PARALLEL":
            used = set(chart["selectedMetrics"])
        else:
            used = {chart["xaxis"]["key"], chart["yaxis"]["key"]}
        assert used <= reported
        assert chart["metricSectionId"] in {section["uuid"] for section in state["compareRunSections"]}
    assert len(tag) < 5000, "the limit of an experiment's tag"
