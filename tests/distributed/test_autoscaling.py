"""A cluster with tokens whose nodes come and go, all on this machine: Ray's own autoscaler, with its fake provider."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest
import yaml

import quench as package
from conftest import REPOSITORY, quench
from quench.record import Record

RAY = str(Path(sys.executable).parent / "ray")


@dataclass(frozen=True)
class Running:
    """A head of one CPU, and up to two nodes of one CPU more."""

    address: str
    dashboard: str
    client: str
    token: str

    def listed(self, what: str, token: str | None = None) -> list[dict[str, Any]]:
        """Nodes or actors, as Ray's State API has them."""
        headers = {"Authorization": f"Bearer {token or self.token}"}
        with urlopen(
            Request(f"{self.dashboard}/api/v0/{what}?detail=1&limit=1000", headers=headers), timeout=30
        ) as page:
            return json.load(page)["data"]["result"]["result"]

    def alive(self) -> list[str]:
        return [node["node_id"] for node in self.listed("nodes") if node["state"] == "ALIVE"]


@contextmanager
def session(*words: str, env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A program of its own session, whose processes are ended with it, and no others."""
    with subprocess.Popen(
        words, env=os.environ | env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            while _kill(process.pid):  # a raylet may be starting another while we look
                time.sleep(0.1)


def _kill(session: int) -> bool:
    """Whether any process of the session was left to be killed."""
    found = False
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                process.kill()
                found = True
    return found


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    said = ""
    while text not in said:
        line = process.stdout.readline()
        assert line, said
        said += line


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


FAULT = """
import sys
if "--mode=proxy" in sys.orig_argv:
    from ray.util.client.server.proxier import ProxyManager
    start = ProxyManager.start_specific_server
    def fail_once(*arguments):
        ProxyManager.start_specific_server = start
        raise RuntimeError("process is a zombie")
    ProxyManager.start_specific_server = fail_once
"""
"""run by every Python process of the cluster; the first client asks in vain for a process that stands for it"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Running]:
    port, dashboard, client = free_ports(3)
    token = secrets.token_hex(32)
    folder = Path(tempfile.mkdtemp(prefix="q", dir="/tmp"))  # Ray's sockets want a short path
    config = folder / "fake.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "cluster_name": "fake",
                "max_workers": 2,
                "upscaling_speed": 10.0,
                "idle_timeout_minutes": 0.1,
                "provider": {
                    "type": "fake_multinode",
                    "gcs_address": f"127.0.0.1:{port}",
                    "use_node_id_as_ip": True,
                    "disable_node_updaters": True,
                    "disable_launch_config_check": True,
                },
                "available_node_types": {
                    "ray.head.default": {"resources": {"CPU": 1, "driver": 64}, "node_config": {}, "max_workers": 0},
                    "worker": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 2},
                },
                "head_node_type": "ray.head.default",
                "auth": {},
                "file_mounts": {},
                "cluster_synced_files": [],
                "worker_setup_commands": [],
                "worker_start_ray_commands": [],
            }
        )
    )
    words = (RAY, "start", "--head", "--block", "--disable-usage-stats", f"--autoscaling-config={config}")
    words += (f"--port={port}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}")
    words += ("--num-cpus=1", '--resources={"driver":64}', "--min-worker-port=0", "--max-worker-port=0")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}.items():
            patch.setenv(name, value)
        (folder / "sitecustomize.py").write_text(FAULT)
        patch.setenv("PYTHONPATH", f"{Path(package.__file__).parents[1]}:{folder}")
        testing = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        testing["GRPC_ENABLE_FORK_SUPPORT"] = "0"
        with session(*words, f"--temp-dir={folder}/ray", env=testing) as process:
            wait_for(process, "Ray runtime started")
            yield Running(f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}", f"ray://127.0.0.1:{client}", token)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One trial on two workers: the head has a CPU for one."""
    file = tmp_path_factory.mktemp("experiment") / "tiny.py"
    head = f"import sys\nsys.path.insert(0, {str(REPOSITORY / 'tests')!r})\nfrom conftest import tiny_recipe\n"
    file.write_text(
        f"{head}from quench import Choice, Sweep\nRECIPE = tiny_recipe()\nSWEEP = Sweep(space={{'workers': Choice(2)}})\n"
    )
    return file


def test_the_doctor_finds_nothing(cluster: Running, experiment: Path, tmp_path: Path) -> None:
    """Asked as from outside, by Ray's client."""
    done = quench("doctor", experiment, "--address", cluster.client, "--storage", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for row in ("cluster", "versions", "storage", "MLflow", "GPUs", "data", "disk", "clock"):
        assert re.search(rf"^ +{row} .* ok *$", done.stdout, re.MULTILINE), done.stdout
    assert "nodes 1, CPUs 1, GPUs 0, token authentication on" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"], "what it wrote to find out is gone"


def test_nodes_come_for_a_sweep_and_go(cluster: Running, experiment: Path, tmp_path: Path) -> None:
    (head,) = cluster.alive()
    done = quench("sweep", experiment, "--address", cluster.address, "--storage", tmp_path, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("tiny-*/*/recipe.json")
    assert Record(path.parent).entries("status")[0]["workers"] == 2
    actors = {actor["class_name"]: actor for actor in cluster.listed("actors")}
    assert "driver" in str(actors["ImplicitFunc"]["required_resources"]), "which the head alone has"
    assert actors["TrainController"]["node_id"] == actors["ImplicitFunc"]["node_id"] == head
    assert len({node["node_id"] for node in cluster.listed("nodes")} - {head}) >= 1
    deadline = time.monotonic() + 120
    while len(cluster.alive()) > 1:
        assert time.monotonic() < deadline, "idle nodes stay"
        time.sleep(0.5)


def test_nobody_gets_in_without_the_token(cluster: Running) -> None:
    with pytest.raises(HTTPError, match="401"):
        urlopen(f"{cluster.dashboard}/api/v0/nodes", timeout=30)
    with pytest.raises(HTTPError, match="403"):
        cluster.listed("nodes", token="guessed")
    for wrong in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "guessed"}):
        words = [RAY, "status", "--address", cluster.address]
        done = subprocess.run(words, env=os.environ | wrong, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode != 0
        assert "AuthenticationError" in done.stderr


@pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run(["unshare", "--mount", "true"], check=False).returncode != 0,
    reason="hides a folder from one node, for which it must be root on Linux",
)
def test_a_node_that_is_unlike_the_others(cluster: Running, experiment: Path, tmp_path: Path) -> None:
    """It has a folder of its own where the others have the storage, and another quench."""
    storage, other = tmp_path / "runs", tmp_path / "other"
    storage.mkdir()
    shutil.copytree(Path(package.__file__).parent, other / "quench")
    with (other / "quench" / "trial.py").open("a") as file:
        file.write("# changed\n")
    hidden = f'mount -t tmpfs none {storage} && exec "$@"'
    words = ("unshare", "--mount", "sh", "-c", hidden, "sh", RAY, "start", "--block", f"--address={cluster.address}")
    words += ("--num-cpus=1", "--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats")
    with session(*words, env={"PYTHONPATH": str(other)}) as process:
        wait_for(process, "Ray runtime started")
        done = quench("doctor", experiment, "--address", cluster.address, "--storage", storage)
        assert done.returncode == 1, done.stdout + done.stderr
        assert re.search(r"^ +storage .* FileNotFoundError", done.stdout, re.MULTILINE), done.stdout
        assert re.search(r"^ +versions .* quench .*, here ", done.stdout, re.MULTILINE), done.stdout
        assert re.search(r"^ +data +every node .* ok *$", done.stdout, re.MULTILINE), done.stdout
        done = quench("sweep", experiment, "--address", cluster.address, "--storage", storage)
        assert done.returncode == 2
        assert re.search(r"--storage .*: must be one folder that every node reads and writes, but on", done.stderr)
        assert [Record(path.parent).status for path in storage.glob("*/*/recipe.json")] == ["waiting"]
