from __future__ import annotations

from pathlib import Path

import pytest
import torch

from quench.analysis.curves import curve_frame, robustness_curve, write_curves
from quench.evaluation import RobustnessReport
from quench.geometry.l2 import L2
from quench.threat_model import ThreatModel


def report(epsilon: float, robust: int) -> RobustnessReport:
    bits = {"clean": torch.arange(10) < 9, "pgd": torch.arange(10) < robust}
    return RobustnessReport(ThreatModel(norm=L2(), epsilon=epsilon), 0, "float32", torch.arange(10), bits)


def test_the_figure_draws_the_frame(tmp_path: Path) -> None:
    frame = curve_frame({"one": [report(0.5, 7), report(1.0, 2)], "two": [report(0.5, 8), report(1.0, 0)]})
    assert frame["robust"].tolist() == [0.9, 0.7, 0.2, 0.9, 0.8, 0.0]
    assert frame["threat"].tolist()[:3] == ["clean", "l2 0.5", "l2 1"]
    assert (frame["robust_low"] <= frame["robust"]).all()
    (axes,) = robustness_curve(frame).axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}  # type: ignore[union-attr]
    assert lines["two"] == [pytest.approx(point) for point in ([0.0, 0.9], [0.5, 0.8], [1.0, 0.0])]
    assert all(file.stat().st_size > 0 for file in write_curves(frame, tmp_path / "new"))
