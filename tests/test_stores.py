"""MLflow on a PostgreSQL database and an S3 bucket, for real; run where they are installed:

apt-get install postgresql; pip install 'psycopg[binary]' 'moto[server]' boto3
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from mlflow import MlflowClient

from conftest import PROGRAM, quench
from quench.storage import find_sweep

pytest.importorskip("psycopg")
moto = pytest.importorskip("moto.server")
boto3 = pytest.importorskip("boto3")
BINARIES = [folder for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin")) if (folder / "initdb").exists()]
if not BINARIES:
    pytest.skip("no PostgreSQL server is installed", allow_module_level=True)

SECRET = "k3y-of-the-store"
SWEEP = """
import sys; sys.path.insert(0, {tests!r})
from conftest import tiny_recipe
from quench import Choice, Sweep

RECIPE = tiny_recipe()
SWEEP = Sweep(space={{"method": Choice("standard", "n_fgsm")}})
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """A PostgreSQL of our own, which asks for a password: its URI."""
    user = "postgres" if os.geteuid() == 0 else None  # it refuses to be root
    port = free_port()
    with TemporaryDirectory() as folder:
        password = Path(folder) / "password"
        password.write_text(SECRET)
        for place in (Path(folder), password):
            if user:
                shutil.chown(place, user)
        data = Path(folder) / "data"
        make = [BINARIES[-1] / "initdb", "-D", data, "-U", "quench", "-A", "scram-sha-256", f"--pwfile={password}"]
        subprocess.run(make, check=True, user=user, capture_output=True)
        words = ["-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", folder]
        with subprocess.Popen([BINARIES[-1] / "postgres", *words], user=user, stderr=subprocess.DEVNULL) as server:
            wait_for(port)
            yield f"postgresql://quench:{SECRET}@127.0.0.1:{port}/postgres"
            server.terminate()


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An S3 server's address, with a bucket named quench, and its keys in the environment."""
    server = moto.ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "quench")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://{host}:{port}")
        boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="quench")
        yield f"http://{host}:{port}"
    server.stop()


def wait_for(port: int) -> None:
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)


@contextmanager
def mlflow_server(database: str) -> Iterator[str]:
    port = free_port()
    words = ["server", "--port", str(port), "--workers", "1", "--artifacts-destination", "s3://quench/runs"]
    environment = os.environ | {"MLFLOW_BACKEND_STORE_URI": database, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with subprocess.Popen([sys.executable, "-m", "mlflow", *words], env=environment) as server:
        wait_for(port)
        yield f"http://127.0.0.1:{port}"
        server.terminate()


def test_a_sweep_is_kept_in_postgresql_and_s3(
    database: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "tiny.py"
    file.write_text(SWEEP.format(tests=str(Path(__file__).parent)))
    storage = tmp_path / "runs"
    with mlflow_server(database) as address:
        done = quench("sweep", file, "--storage", storage, "--tracking-uri", address)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "could not be written" not in done.stdout
        client = MlflowClient(tracking_uri=address)
        for record in find_sweep(storage, "latest").records:
            (run,) = client.search_runs(["1"], f"tags.`quench.id` = '{record.about['id']}'")
            assert run.info.status == "FINISHED"
            assert run.info.artifact_uri.startswith("mlflow-artifacts:")
            assert len(client.get_metric_history(run.info.run_id, "robust_accuracy")) == len(record.entries("epoch"))
            weights = client.download_artifacts(run.info.run_id, "checkpoint/best.pt", str(tmp_path))
            assert Path(weights).read_bytes() == (record.directory / "best.pt").read_bytes()
        kept = boto3.client("s3", endpoint_url=bucket).list_objects_v2(Bucket="quench")["Contents"]
        assert any(entry["Key"].endswith("best.pt") for entry in kept)
        shown = quench("ui", "--tracking-uri", address)
        assert shown.stdout.startswith(f"tiny: {address}/#/experiments/1/runs?")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    direct = Path(shutil.copy(file, tmp_path / "direct.py"))
    done = quench("train", direct, "--storage", storage)
    assert done.returncode == 0, done.stderr
    assert "could not be written" not in done.stdout
    port = free_port()
    words = [PROGRAM, "ui", "--storage", str(storage), "--port", str(port)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        links = [process.stdout.readline().partition(": ") for _ in range(2)]
        assert {name for name, _, _ in links} == {"tiny", "direct"}
        assert all(link.startswith(f"http://127.0.0.1:{port}/#/experiments/") for _, _, link in links)
        lines = [place.read_bytes() for place in Path("/proc").glob("[0-9]*/cmdline")]
        assert not [line for line in lines if SECRET.encode() in line]
        process.terminate()
        assert process.wait(timeout=60) == 0
    assert not [path for path in storage.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
