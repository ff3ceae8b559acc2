"""MLflow and the logs after everything that can go wrong between them, with a real server and real kills."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import torch
from mlflow import MlflowClient

from conftest import quench_here, tiny_recipe
from processes import exit_code, fork
from quench import trial
from quench.cli import main
from quench.config import override
from quench.datasets import Split
from quench.record import Record
from quench.registry import most_robust
from quench.storage import everything
from quench.tracking import Tracker
from test_tracking import assert_equals_its_log, find

FILE = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from dataclasses import replace
from conftest import tiny_recipe
from quench.training.budgets.epochs import Epochs
RECIPE = replace(tiny_recipe(), budget=Epochs(80))
"""


@contextmanager
def serving(storage: Path, port: int) -> Iterator[None]:
    """An MLflow server, killed when the block is over."""
    words = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{storage}/server.db", "--artifacts-destination", f"{storage}/files"]
    command = [sys.executable, "-m", "mlflow", "server", *words]
    settings = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with subprocess.Popen(
        command, env=settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as server:
        try:
            wait_for(lambda: answers(port), 120)
            yield
        finally:
            os.killpg(server.pid, signal.SIGKILL)


def answers(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
            return True
    except OSError:
        return False


def wait_for(what: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_servers_and_programs_may_die_and_mlflow_still_equals_the_logs(tmp_path: Path) -> None:
    (tmp_path / "tiny.py").write_text(FILE)
    Tracker(f"sqlite:///{tmp_path}/server.db", tmp_path, "another")  # so that nobody need make a database
    shutil.copy(tmp_path / "server.db", tmp_path / "elsewhere.db")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    client, words = MlflowClient(tracking_uri=uri), ["--storage", str(tmp_path / "runs"), "--tracking-uri", uri]

    def epochs() -> int:
        return len(record.entries("epoch"))

    def pause(driver: int, after: int) -> None:
        """Else the run would be over before MLflow has heard of it."""
        wait_for(lambda: epochs() > after, 60)
        os.kill(driver, signal.SIGSTOP)

    with serving(tmp_path, port):
        driver = fork(lambda: main(["train", str(tmp_path / "tiny.py"), *words]))
        wait_for(lambda: list(tmp_path.glob("runs/*/recipe.json")), 60)
        (record,) = everything(tmp_path / "runs")
        assert isinstance(record, Record)
        pause(driver, after=2)
        wait_for(lambda: client.search_runs(["1", "2"]), 60)
        said = quench_here("sync", *words)
        assert "left to the process that is carrying it out" in said.stdout
    before = epochs()
    os.kill(driver, signal.SIGCONT)
    wait_for(lambda: epochs() > before + 3, 60)
    os.kill(driver, signal.SIGKILL)
    assert exit_code(driver) == -signal.SIGKILL
    assert record.status == "running"
    assert epochs() < 80, "the test must kill it before its end"
    refused = quench_here("sync", *words)
    assert refused.returncode == 2
    assert "MLflow cannot be written" in refused.stderr
    with serving(tmp_path, port):
        run = find(client, record.about["id"])
        assert client.get_run(run).info.status == "RUNNING"
        assert quench_here("sync", *words).stdout.strip().endswith("interrupted")
        found = client.get_run(run)
        assert (found.info.status, found.data.tags["status"]) == ("KILLED", "interrupted")
        assert_equals_its_log(client, record)
        before = epochs()
        driver = fork(lambda: main(["resume", *words]))
        pause(driver, after=before)
        wait_for(lambda: client.get_run(run).info.status == "RUNNING", 60)
        os.kill(driver, signal.SIGCONT)
    exit_code(driver)
    assert record.status == "finished"
    elsewhere = f"sqlite:///{tmp_path}/elsewhere.db"
    for _ in range(2):
        assert quench_here("sync", "all", *words[:2], "--tracking-uri", elsewhere).returncode == 0
    other = MlflowClient(tracking_uri=elsewhere)
    assert_equals_its_log(other, record)
    assert other.get_run(find(other, record.about["id"])).info.status == "FINISHED"
    assert [entry["epoch"] for entry in record.entries("epoch")] == list(range(1, 81))
    assert_the_model_is_the_runs(record, elsewhere, tmp_path)


def assert_the_model_is_the_runs(record: Record, uri: str, folder: Path) -> None:
    """In a process that knows nothing of it, without unpickling anything."""
    state, data = trial.restore(record, "last", torch.device("cpu"))
    assert isinstance(data.test, Split)
    images = data.test.batch(torch.arange(20)).x
    np.save(folder / "images.npy", images.numpy())
    code = (
        "import mlflow, numpy as np\n"
        "model = mlflow.pyfunc.load_model('models:/tiny-linf-0.1@best')\n"
        "np.save('logits.npy', model.predict(np.load('images.npy')))\n"
        "print(model.metadata.metadata['threat'])"
    )
    environment = os.environ | {"MLFLOW_TRACKING_URI": uri, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "linf 0.1"
    with torch.no_grad():
        expected = state.judged.eval()(images)
    assert np.allclose(np.load(folder / "logits.npy"), expected.numpy(), atol=1e-5)
    client = MlflowClient(tracking_uri=uri)
    (version,) = client.search_model_versions("name = 'tiny-linf-0.1'")
    files = {path.name for path in Path(version.source.removeprefix("file://")).rglob("*") if path.is_file()}
    assert {"MLmodel", "README.md", "recipe.json", "network.json", "weights.safetensors", "mlflow_model.py"} <= files
    assert not [name for name in files if name.endswith((".pkl", ".pt", ".pth"))]
    assert "under pgd-3-1" in version.description
    (model,) = client.get_run(version.run_id).outputs.model_outputs
    evaluated = {metric.key: metric for metric in client.get_logged_model(model.model_id).metrics}
    final = record.entries("evaluation")[0]
    assert evaluated["test_robust_accuracy"].value == final["robust"]["value"]
    assert evaluated["test_robust_accuracy"].dataset_digest == data.test.digest()


def test_of_a_sweep_the_most_robust_on_held_out_images_is_registered(tmp_path: Path) -> None:
    """Of each threat model; neither test images nor runs that were lost have a say."""
    rows = [(0.1, 0.5, 0.9, "finished"), (0.1, 0.6, 0.1, "finished"), (0.1, 0.9, 0.9, "catastrophic_overfitting")]
    records = [ended(tmp_path / str(i), *row) for i, row in enumerate([*rows, (0.2, 0.3, 0.3, "finished")])]
    records.append(Record.create(tmp_path / "waits", tiny_recipe(), experiment="tiny", configuration="c"))
    assert most_robust(records) == {records[1]: 2, records[3]: 1}


def ended(directory: Path, epsilon: float, held_out: float, test: float, status: str) -> Record:
    recipe = override(tiny_recipe(), {"threat.epsilon": epsilon})
    record = Record.create(directory, recipe, experiment="tiny", configuration="c")
    share = {"value": test, "low": test, "high": test}
    data = {"validation": {"digest": "0" * 32}}
    record.append("status", status="running", data=data)
    record.append("epoch", epoch=1, metrics={"robust_accuracy": held_out, "train_seconds": 1.0})
    record.append("evaluation", final=True, epoch=1, robust=share, clean=share)
    record.append("status", status=status)
    return record
