"""The command line as its users meet it; sweeps under Ray are in tests/distributed."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from conftest import PROGRAM, REPOSITORY, quench, quench_here
from quench.cli import main
from quench.evaluation import Share
from quench.record import Record

DIGITS = str(REPOSITORY / "experiments" / "digits_linf.py")
DEMO = str(REPOSITORY / "experiments" / "demo.py")
CIFAR = str(REPOSITORY / "experiments" / "cifar10_linf8.py")


def complaint(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a mistake is answered with."""
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == "", "nothing was begun"
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("train", DIGITS, "--threat.epsilonn", "0.1"), r"threat\.epsilonn = 0\.1: no such field; .*did you mean 'threat\.epsilon'"),
        (("train", DIGITS, "--epoch", "3"), r"epoch = 3: no such field; .*did you mean 'budget.epochs'"),
        (("train", DIGITS, "--threat.epsilon", "-1"), r"threat\.epsilon = -1\.0: must be above 0"),
        (("train", DIGITS, "--threat.epsilon=big"), r"threat\.epsilon = 'big': must be a number or a fraction such as 8/255"),
        (("train", DIGITS, "--threat.norm", "l3"), r"threat\.norm = 'l3': must be one of l1, l2, linf; did you mean 'l2'"),
        (("train", DIGITS, "--workers", "65"), r"batch_size = 64: must be at least workers = 65, so that each has a share"),
        (("train", DIGITS, "--workers", "two"), r"workers.*two"),
        (("train", DIGITS, "--batch_size", "5000"), r"batch_size = 5000: must be at most the 1197 training images"),
        (("train", DIGITS, "--validation", "5000"), r"validation = 5000: must be from 1 to 1346"),
        (("train", DIGITS, "--budget.epochs"), r"--budget.epochs needs a value"),
        (("train", DIGITS, "--budget.epochs", "--threat.epsilon", "0.1"), r"--budget.epochs needs a value"),
        (("train", DIGITS, "--threat", "l2"), r"threat = 'l2': has fields of its own, .*: norm, epsilon"),
        (("train", DIGITS, "--augmentation.padding", "8"), r"augmentation\.padding = 8: must be below the images' side, 8"),
        (("train", DIGITS.replace("linf", "lnif")), r"experiment = .*no such file; did you mean '.*digits_linf\.py'"),
        (("train", CIFAR, "--data.path", "/nowhere.tar.gz"), r"data\.path = '/nowhere\.tar\.gz': no such file"),
        (("train", CIFAR, "--data", "image_folder"), r"data\.root = None: is required"),
        (("train", CIFAR, "--data", "image_folder", "--data.root", "/nowhere"), r"data\.root = '/nowhere': no such folder"),
        (("train",), r"EXPERIMENT"),
        (("sweep", DIGITS), r"defines no SWEEP"),
        (("sweep", DEMO, "--scheduler", "ahsa"), r"scheduler = 'ahsa': must be one of asha, fifo, halving, hyperband, pb2, pbt; did you mean 'asha'"),
        (("sweep", DEMO, "--trials", "0"), r"trials = 0: must be above 0"),
        (("sweep", DEMO, "--method.steps", "3"), r"method\.steps = 3: .*SWEEP"),
        (("trian", DIGITS), r"command = 'trian': must be one of .*did you mean 'train'"),
        (("evaluate", "nothing", "--storage", "/nowhere"), r"run = 'nothing': /nowhere holds no run"),
        (("resume", "nothing", "--storage", "/nowhere"), r"run or sweep = 'nothing': /nowhere holds no run or sweep"),
        (("report", "nothing", "--storage", "/nowhere"), r"sweep = 'nothing': /nowhere holds no sweep"),
        (("train", DIGITS, "--tracking-uri", "https://me:k3y@host"), r"--tracking-uri https://\*\*\*@host: must hold no password; set MLFLOW_"),
        (("report", "--trials", "3"), r"report takes no option --trials"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    says: str,
) -> None:
    monkeypatch.setenv("QUENCH_STORAGE", str(tmp_path))
    line = complaint(capsys, *words)
    assert line.startswith("quench: ")
    assert re.search(says, line), line
    assert list(tmp_path.iterdir()) == [], "nothing was begun"


def test_no_traceback_from_the_real_program() -> None:
    done = quench("train", DIGITS, "--threat.epsilon", "-1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "quench: threat.epsilon = -1.0: must be above 0, in pixel units, such as 8/255\n"


@pytest.mark.parametrize("command", ["train", "sweep", "resume", "evaluate", "interpret", "report", "doctor", "ui"])
def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main((command, "--help"))
    assert caught.value.code == 0
    assert "--storage" in capsys.readouterr().out


def test_help_lists_the_fields_of_an_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(("train", DIGITS, "--method", "pgd", "--help"))
    out = capsys.readouterr().out
    assert re.search(r"--threat\.epsilon 0\.15 +radius of the ball", out)
    assert re.search(r"--method\.steps 7 +gradient steps", out)


def test_train_then_evaluate(tmp_path: Path) -> None:
    storage = tmp_path / "runs"
    done = quench_here("train", DIGITS, "--budget.epochs", "3", "--threat.epsilon", "0.1", "--storage", storage)
    assert done.returncode == 0, done.stderr
    assert "linf 0.1 n_fgsm s=0: 450 test images, 95 % intervals: clean" in done.stdout
    assert f"quench ui --storage {storage}" in done.stdout
    (run,) = storage.glob("digits_linf-*")
    for name in (run.name, "latest"):
        words = ("--attack.steps", "4", "--attack.restarts", "2", "--storage", storage)
        done = quench_here("evaluate", name, *words)
        assert done.returncode == 0, done.stderr
        assert re.search(r"robust \d+\.\d% \[.*\] \(pgd-4-2\)", done.stdout), done.stdout
    done = quench_here("evaluate", run.name, "--threat.epsilon", "0.2", "--attack.restarts", "1", "--storage", storage)
    assert "(pgd-50-1 linf 0.2)" in done.stdout, "another threat model than the run's is named"
    short = ("--attack.steps", "3", "--attack.restarts", "1", "--storage", storage)
    done = quench_here("evaluate", run.name, "--threats", "linf:0.1", "l2:1/2", "l1:1.5", *short)
    found = re.findall(r"robust (\d+\.\d)% \[.*\] \((pgd-3-1.*)\)", done.stdout)
    names = ["pgd-3-1", "pgd-3-1 l2 0.5", "pgd-3-1 l1 1.5", "pgd-3-1 linf 0.1 and l2 0.5 and l1 1.5"]
    assert [label for _, label in found] == names, done.stdout + done.stderr
    *each, union = [float(share) for share, _ in found]
    assert union <= min(each)
    done = quench_here("evaluate", run.name, "--threats", "l3:1", *short)
    assert "threats.norm = 'l3': must be one of l1, l2, linf" in done.stderr
    done = quench_here("evaluate", run.name, "--threats", "linf", *short)
    assert "threats = 'linf': must be NORM:EPSILON, such as linf:8/255" in done.stderr
    done = quench_here("evaluate", f"{run.name}x", "--storage", storage)
    assert done.returncode == 2
    assert f"did you mean '{run.name}'" in done.stderr
    done = quench_here("evaluate", run.name, "--attack.stepps", "4", "--storage", storage)
    assert "attack.stepps = 4: no such field; attack has random_start, restarts, step_ratio, steps" in done.stderr


def test_interrupted_then_resumed(tmp_path: Path) -> None:
    """Ctrl-C, and on from the last checkpoint."""
    words = [PROGRAM, "train", DIGITS, "--budget.epochs", "60", "--storage", str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        while not any(record.entries("epoch") for record in map(Record, tmp_path.glob("digits*"))):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    (directory,) = tmp_path.glob("digits*")
    record = Record(directory)
    assert record.status == "interrupted"
    assert f"resume {directory.name} --storage {tmp_path}" in output
    done = quench("resume", "latest", "--storage", tmp_path)
    assert done.returncode == 0, done.stderr
    assert [entry["epoch"] for entry in record.entries("epoch")] == list(range(1, 61))
    (evaluation,) = record.entries("evaluation")
    assert Share(**evaluation["robust"]).value > 0.5


def test_a_run_that_diverges_exits_with_1(tmp_path: Path) -> None:
    words = ("--optimizer.lr", "1e18", "--optimizer.nesterov", "false", "--budget.epochs", "3", "--storage", tmp_path)
    done = quench_here("train", DIGITS, *words)
    assert done.returncode == 1
    assert "failed: FloatingPointError: training diverged" in done.stdout


def test_an_unreachable_tracking_server_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does its password get anywhere."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:k3y@127.0.0.1:9")
    done = quench_here("train", DIGITS, "--budget.epochs", "2", "--storage", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "MLflow could not be written (MlflowException: " in done.stdout
    assert re.search(r"MLflow, later: .*quench sync ", done.stdout)
    assert "450 test images" in done.stdout
    assert "k3y" not in done.stdout + done.stderr
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and b"k3y" in file.read_bytes()]
    assert "k3y" not in quench("ui", "--storage", tmp_path).stdout
