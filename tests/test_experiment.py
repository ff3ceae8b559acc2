from __future__ import annotations

from pathlib import Path

import pytest

from conftest import REPOSITORY
from quench.errors import UserError
from quench.experiment import Experiment
from quench.sweep.trials import trials

EXPERIMENTS = sorted((REPOSITORY / "experiments").glob("*.py"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_loads_and_says_how_to_run_it(path: Path) -> None:
    experiment = Experiment.load(path)
    assert experiment.name == path.stem
    assert f"experiments/{path.name}" in path.read_text()
    if experiment.sweep is not None:
        assert trials(experiment.recipe, experiment.sweep)


def test_the_demo_is_what_it_says() -> None:
    demo = Experiment.load(REPOSITORY / "experiments" / "demo.py")
    assert demo.sweep is not None
    found = trials(demo.recipe, demo.sweep)
    for threat in ("linf 0.15", "l2 0.7"):
        methods = [
            (t.configuration, t.recipe.seed) for t in found if str(t.recipe.threat) == threat and t.recipe.workers == 1
        ]
        assert sorted(methods) == sorted((m, s) for m in ("standard", "fgsm_rs", "n_fgsm", "pgd") for s in (0, 1, 2))
        assert len({(t.recipe.model, t.recipe.budget) for t in found}) == 1, "same network and epochs"
    assert any(t.recipe.workers == 2 for t in found)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("RECIPE = ", r"bad\.py:1: SyntaxError"),
        ("x = 1\nfrom quench import Resipe\n", r"bad\.py:2: ImportError"),
        ("from quench import ThreatModel\nThreatModel(epsilonn=1)\n", r"bad\.py:2: TypeError: .*epsilonn"),
        (
            "from quench import ThreatModel\nfrom quench.geometry.l2 import L2\nThreatModel(norm=L2(), epsilon=-1)\n",
            r"bad\.py:3: InvalidValue: epsilon = -1: must be above 0",
        ),
        ("pass", r"defines no RECIPE"),
    ],
)
def test_mistakes_in_a_file_are_named_with_their_line(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "bad.py"
    path.write_text(content)
    with pytest.raises(UserError, match=says) as caught:
        Experiment.load(path)
    assert "\n" not in str(caught.value)
