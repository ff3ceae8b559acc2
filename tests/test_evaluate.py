"""`quench evaluate` and `quench compare` as a user has them: real processes, real files."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from conftest import PROGRAM, quench, quench_here, tiny_recipe
from quench import trial
from quench.config import override
from quench.record import Record
from quench.verdicts import Verdicts

SHORT = ("--attack.steps", "3", "--attack.restarts", "2", "--batch-size", "32")


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, of one and of two epochs."""
    folder = tmp_path_factory.mktemp("runs")
    for name, epochs in (("one", 1), ("two", 2)):
        recipe = override(tiny_recipe(), {"budget.epochs": epochs})
        record = Record.create(folder / name, recipe, experiment="tiny", configuration="n_fgsm")
        for _ in trial.run(record, torch.device("cpu")):
            pass
    return folder


def robust(storage: Path, run: str, *words: str) -> dict[str, object]:
    program = quench if "--workers" in words else quench_here
    done = program("evaluate", run, *words, "--storage", storage)
    assert done.returncode == 0, done.stderr
    return Record(storage / run).entries("evaluation")[-1]


def test_workers_give_the_same_verdicts(storage: Path) -> None:
    alone = robust(storage, "one", *SHORT, "--seed", "5")
    (path,) = (storage / "one" / "verdicts").glob(str(alone["verdicts"][0]))  # type: ignore[index]
    report = Verdicts(path).report()
    path.unlink()
    shared = robust(storage, "one", *SHORT, "--seed", "5", "--workers", "2")
    assert shared["robust"] == alone["robust"]
    assert torch.equal(Verdicts(path).report().robust_bits, report.robust_bits)


def test_killed_it_goes_on_where_it_was(storage: Path) -> None:
    words = ["--attack.steps", "40", "--attack.restarts", "10", "--batch-size", "32", "--seed", "6"]
    with subprocess.Popen(
        [PROGRAM, "evaluate", "two", *words, "--storage", storage], stdout=subprocess.PIPE
    ) as process:
        while not (kept := [v for v in Verdicts.all(storage / "two") if v.question["seed"] == 6 and list(v.parts())]):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    before = kept[0].path.read_bytes()
    judged = kept[0].report().n
    assert 0 < judged < 450
    entry = robust(storage, "two", *words)
    assert kept[0].path.read_bytes().startswith(before[: before.rfind(b"\n") + 1]), "nothing is judged twice"
    assert (entry["examples"], kept[0].report().n) == (450, 450)
    assert sorted(place for part in kept[0].parts() for place in part.places.tolist()) == list(range(450))
    known = len(Record(storage / "two").entries("evaluation"))
    robust(storage, "two", *words)
    assert len(Record(storage / "two").entries("evaluation")) == known, "asked again, it has its answer"


def test_stops_when_it_is_sure_enough_and_goes_on_when_more_is_asked(storage: Path) -> None:
    first = robust(storage, "one", *SHORT, "--seed", "7", "--until-halfwidth", "0.08")
    share = first["robust"]
    assert isinstance(share, dict)
    assert 0.04 < (share["high"] - share["low"]) / 2 <= 0.08
    assert first["examples"] < first["of"] == 450  # type: ignore[operator]
    whole = robust(storage, "one", *SHORT, "--seed", "7")
    assert whole["examples"] == 450


def test_compare_needs_an_evaluation_in_common(storage: Path) -> None:
    robust(storage, "one", *SHORT, "--threats", "l2:0.3")
    done = quench_here("compare", "one", "two", "--storage", storage)
    assert done.returncode == 0, done.stderr
    assert "pgd-3-1 linf 0.1" in done.stdout, "the recipe's own evaluation is in common from the start"
    assert "l2 0.3" not in done.stdout
    robust(storage, "two", *SHORT, "--threats", "l2:0.3")
    assert "pgd-3-2 l2 0.3" in quench_here("compare", "one", "two", "--storage", storage).stdout


def test_curves_of_two_runs(storage: Path) -> None:
    words = ("--epsilons", "0.05", "0.1", "--attack.steps", "3", "--attack.restarts", "1", "--storage", storage)
    done = quench_here("curve", "one", "two", *words)
    assert done.returncode == 0, done.stderr
    assert "linf 0.05" in done.stdout
    (folder,) = storage.glob("curve-*")
    frame = pd.read_csv(folder / "robustness_curve.csv")
    assert frame["epsilon"].tolist() == [0.0, 0.05, 0.1] * 2
    assert (frame.groupby("run")["robust"].diff().dropna() <= 0).all()
    assert (folder / "robustness_curve.png").stat().st_size > 10_000
    done = quench_here("curve", "one", "--epsilons", "-1", "--storage", storage)
    assert "epsilons.epsilon = -1.0: must be above 0" in done.stderr


def test_autoattack_tells_its_stages(storage: Path) -> None:
    words = ("--attack", "autoattack", "--attack.steps", "4", "--attack.queries", "30", "--until-halfwidth", "0.1")
    entry = robust(storage, "two", *words)
    stages = [f"autoattack/{name}" for name in ("apgd_ce", "apgd_t", "fab_t", "square")]
    shares = [entry["under"][key]["value"] for key in ["clean", *stages, "autoattack"]]  # type: ignore[index]
    assert shares == sorted(shares, reverse=True)


def test_any_model_is_judged_and_leaves_a_record_of_the_protocol(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    torch.manual_seed(1)
    save_file(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).state_dict(), tmp_path / "net.safetensors"
    )
    words = ["--model", "mine:net", "--data", "digits", "--threats", "linf:8/255", *SHORT, "--storage", "runs"]
    done = quench("evaluate", *words, "--weights", "net.safetensors", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("runs/net-*/verdicts/*.json")
    record = json.loads(path.read_text())
    assert (record["dataset"], record["eps"], record["unreliable"]) == ("digits", "8/255", False)
    protocol = record["evaluation"]
    assert (protocol["examples"], protocol["mode"], protocol["judged_in"], protocol["tolerance"]) == (
        450,
        "eval",
        "float32",
        1e-5,
    )
    assert protocol["attacks"]["pgd"]["steps"] == 3
    assert record["pgd_acc"] == f"{100 * protocol['robust']['value']:.2f}"
    done = quench("evaluate", *words, "--workers", "2", "--seed", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = quench("compare", *(path.name for path in tmp_path.glob("runs/net-*")), "--storage", "runs", cwd=tmp_path)
    assert "pgd-3-2 linf 8/255" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        ("--model mine:net --data digits", "threats = None: is required with --model"),
        ("--model mine:net --threats linf:0.1", "data = None: is required with --model"),
        ("--model mine:nothing --data digits --threats linf:0.1", "--model mine:nothing: ModuleNotFoundError"),
        ("--model mine --data digits --threats linf:0.1", "model = 'mine': must be module:function"),
        ("one --model mine:net", "run = 'one': cannot be given together with --model"),
        ("one --weights net.pt", "weights = 'net.pt': belongs to --model"),
        ("one --workers 0", "workers = 0: must be 1 or more"),
        ("one --until-halfwidth 2", "until-halfwidth = 2.0: must be from 0 to below 1"),
        ("one --precision half", "precision = 'half': must be one of bfloat16, float32"),
        ("", "name a run, or a model with --model module:function"),
    ],
)
def test_refusals(storage: Path, words: str, refusal: str) -> None:
    done = quench_here("evaluate", *words.split(), "--storage", storage)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert refusal in done.stderr
