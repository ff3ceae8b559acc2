"""gpu.sh from end to end at toy size on the CPU, without any package but torch and numpy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from conftest import REPOSITORY

WITHOUT = """
import sys
from importlib.machinery import ModuleSpec

class Absent:
    NAMES = {"attr", "attrs", "cattrs", "matplotlib", "mlflow", "optuna", "pandas", "PIL", "pooch", "psutil", "pyarrow",
             "ray", "rich", "safetensors", "scipy", "sklearn", "tqdm"}

    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self, origin="absent") if name.partition(".")[0] in self.NAMES else None

    def create_module(self, spec):
        raise ModuleNotFoundError(spec.name)

    def exec_module(self, module):
        pass

sys.meta_path.insert(0, Absent())
"""
TOY = "--device cpu --images 100 --width 4 --gemm 64 --batches 8 --batch 8 --repeats 1 --updates 1 --no-compile"
RUNS = "--goals l2_70 --epochs 1 --candidates 2 --seeds 2 --judged 4"


def test_every_stage_leaves_its_rows(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHON": sys.executable, "OUT": str(tmp_path)}
    command = ["sh", "experiments/benchmarks/gpu.sh", "roofline", "epoch", "search", "time_to", *TOY.split()]
    done = subprocess.run(
        [*command, *RUNS.split()], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert {result["machine"]["data"] for result in results.values()} == {"made up, 100 images"}
    limits, *rows = results["roofline"]["rows"]
    assert min(limits.values()) > 0
    counted = {row["method"]: row["GFLOP_image"] for row in rows if "GFLOP_image" in row}
    assert 1.5 < counted["n_fgsm"] / counted["standard"] < 1.8  # 5 forward passes' worth against 3
    failed = {row["setting"] for row in rows if "error" in row}
    assert failed == {"captured update"}, "which needs CUDA"
    assert [row["images"] for row in results["epoch"]["rows"]] == [80, 80, 80]
    searched = results["search"]["rows"]
    assert [row["candidate"] for row in searched] == ["fgsm_rs, 40 epochs", "fgsm_rs, 30 epochs"]
    *runs, together = results["time_to"]["rows"]
    assert [run["seed"] for run in runs] == [1000, 1001]
    assert {run["images"] for run in runs} == {4}
    assert together["runs"] == 2
    assert together["with_compilation"] > 0
