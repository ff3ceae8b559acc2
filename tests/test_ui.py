"""`quench ui` for real: MLflow's server on a sweep's store, and its pages in a browser."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
import torch
from mlflow import MlflowClient
from playwright.sync_api import Browser, expect, sync_playwright

from conftest import PROGRAM, quench_here, tiny_recipe
from quench import Choice, trial
from quench.analysis.report import write_report
from quench.storage import SweepRecord
from quench.sweep import Sweep
from quench.sweep.trials import trials
from quench.tracking import Tracker, default_uri

SECONDS = 60
"""how long a busy machine may take"""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> SweepRecord:
    """Two runs in MLflow's store, with the sweep's figure."""
    storage = tmp_path_factory.mktemp("runs")
    chosen = trials(tiny_recipe(), Sweep(space={"method": Choice("standard", "n_fgsm")}))
    made = SweepRecord.create(storage / "tiny-1", "tiny", chosen, {"file": "tiny.py"})
    tracker = Tracker(default_uri(storage), storage, "tiny")
    tracker.begin_sweep(made, "running")
    for record in made.records:
        for _ in trial.run(record, torch.device("cpu")):
            pass
        tracker(record, record.read()[0])
    frames, files = write_report(made)
    tracker.end_sweep(made, frames["configurations"], files)
    return made


@contextmanager
def ui(storage: Path, *words: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], int, str]]:
    """The process, its port, and the link to the sweep's page."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [PROGRAM, "ui", "--storage", str(storage), "--port", str(port), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | environment) as process:
        assert process.stdout is not None
        name, _, link = process.stdout.readline().strip().partition(": ")
        try:
            assert name == "tiny"
            yield process, port, link
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def link(sweep: SweepRecord) -> Iterator[str]:
    """The page of the sweep; its server ends with the program."""
    with ui(sweep.directory.parent) as (process, port, link):
        yield link
        process.terminate()
        assert process.wait(timeout=SECONDS) == 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0, "nothing is left behind"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(names)} is installed")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    expect.set_options(timeout=SECONDS * 1000)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=quiet)
        yield opened
        opened.close()


def test_a_browser_shows_the_sweep(sweep: SweepRecord, link: str, browser: Browser) -> None:
    page = browser.new_page(viewport={"width": 1600, "height": 2400})  # what is out of sight is not drawn
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    home, _, path = link.partition("#")

    page.goto(link)
    for record in sweep.records:
        expect(page.get_by_role("link", name=record.name)).to_be_visible()
    expect(page.get_by_text("Time versus robustness")).to_be_visible()
    chart = page.locator(".js-plotly-plot").first
    expect(chart.locator(".trace").first).to_be_visible()
    assert chart.evaluate("chart => chart.layout.xaxis.title.text") == "train_seconds"
    lines = chart.evaluate("chart => chart.data.map(({name, x, y}) => ({name, x, y}))")
    for record in sweep.records:
        told = [entry["metrics"] for entry in record.entries("epoch")]
        line = next(line for line in lines if line["name"] == record.name)
        assert line["x"] == pytest.approx([metrics["train_seconds"] for metrics in told])
        assert line["y"] == pytest.approx([metrics["robust_accuracy"] for metrics in told])
    expect(page.get_by_text("What was swept")).to_be_visible()
    axes = ["method", "train_seconds", "clean_accuracy", "robust_accuracy"]
    expect(page.locator(".dimension .label")).to_have_text(axes)

    client = MlflowClient(tracking_uri=default_uri(sweep.directory.parent))
    (parent,) = client.search_runs(["1"], f"tags.`quench.id` = '{sweep.about['id']}'")
    page.goto(f"{home}#/experiments/1/runs/{parent.info.run_id}/artifacts")
    page.get_by_text("report", exact=True).click()
    page.get_by_text("time_vs_robustness.png").click()
    figure = page.get_by_role("img", name="report/time_vs_robustness.png")
    expect(figure).to_be_visible()
    assert figure.evaluate("image => image.naturalWidth") > 0

    # As a later release would find ours: in a format that it does not know.
    client.set_experiment_tag("1", "mlflow.sharedViewState.strange", '{"name": "strange", "state": "new;e30="}')
    page.goto(f"{home}#{path.replace('=quench', '=strange')}")
    expect(page.get_by_role("link", name=sweep.name)).to_be_visible()
    assert not [url for url in asked if not url.startswith((home, "data:", "blob:"))]


def test_a_port_that_is_taken_is_refused(link: str, tmp_path: Path) -> None:
    port = link.partition("/#")[0].rpartition(":")[2]
    done = quench_here("ui", "--storage", tmp_path, "--port", port)
    assert done.returncode == 2
    assert done.stderr == f"quench: port = {port}: is in use; try --port {int(port) + 1}\n"


def test_other_machines_need_a_password(sweep: SweepRecord, tmp_path: Path) -> None:
    refused = quench_here("ui", "--storage", tmp_path, "--host", "0.0.0.0")
    assert refused.returncode == 2
    assert "set MLFLOW_FLASK_SERVER_SECRET_KEY and MLFLOW_AUTH_ADMIN_PASSWORD" in refused.stderr
    password = "correct horse battery"
    login = {"MLFLOW_FLASK_SERVER_SECRET_KEY": "a key", "MLFLOW_AUTH_ADMIN_PASSWORD": password}
    with ui(sweep.directory.parent, "--host", "0.0.0.0", **login) as (_, port, link):
        assert link.startswith(f"http://{socket.gethostname()}:{port}/#/experiments/1/runs?")
        ask = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search?max_results=1"
        assert requests.get(ask, timeout=SECONDS).status_code == 401
        assert requests.get(ask, timeout=SECONDS, auth=("admin", password)).ok
        strange = requests.get(ask, timeout=SECONDS, auth=("admin", password), headers={"Host": "evil.example"})
        assert strange.status_code == 403
    users = sweep.directory.parent / "mlflow-users.db"
    assert users.stat().st_mode & 0o077 == 0
    assert not [p for p in sweep.directory.parent.glob("*") if p.is_file() and password.encode() in p.read_bytes()]
