"""The cluster files: against Ray's own schema, which `ray up` checks first, and against what they promise."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from conftest import REPOSITORY

LAUNCHED = [REPOSITORY / "cluster.yaml", *(REPOSITORY / "cluster" / f"{name}.yaml" for name in ("gcp", "on_premises"))]
KUBERAY = REPOSITORY / "cluster" / "kuberay.yaml"
each = pytest.mark.parametrize("path", LAUNCHED, ids=lambda path: path.stem)


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def pinned(package: str) -> str:
    (version,) = re.findall(rf"^{package}==(\S+)", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)
    return version


@each
def test_ray_accepts_it(path: Path) -> None:
    validate_config(prepare_config(load(path)))


@each
def test_the_check_can_fail(path: Path) -> None:
    with pytest.raises(Exception, match="head_node_typo"):
        validate_config(prepare_config(load(path) | {"head_node_typo": "head"}))


@each
def test_every_ray_process_asks_for_the_token_and_nothing_is_public(path: Path) -> None:
    config = prepare_config(load(path))  # with what Ray would add
    head, worker = (config[f"{kind}_start_ray_commands"] for kind in ("head", "worker"))
    starts = [command for command in head + worker if "ray start" in command]
    assert len(starts) == 2
    for command in starts:
        assert "GRPC_ENABLE_FORK_SUPPORT=0 RAY_AUTH_MODE=token" in command
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "0.0.0.0" not in str(config)
    (server,) = [command for command in head if "mlflow server" in command]
    assert {"--host=127.0.0.1", "--property=Restart=always"} <= set(shlex.split(server))
    assert re.search(r"--artifacts-destination=(s3://|gs://|/mnt/quench)", server)


@each
def test_packages_are_the_locked_ones_and_the_head_drives(path: Path) -> None:
    config = prepare_config(load(path))
    assert any("make setup" in command for command in config["setup_commands"])
    for command in config["setup_commands"] + config["head_setup_commands"]:
        wanted = [word for word in command.partition("pip install")[2].split() if not word.startswith("-")]
        assert all("==" in word or word == "constraints.txt" for word in wanted), "Ray's own default is a nightly build"
    (start,) = [command for command in config["head_start_ray_commands"] if "ray start" in command]
    given = [json.loads(word.partition("=")[2]) for word in shlex.split(start) if word.startswith("--resources=")]
    assert (given or [config["available_node_types"]["head"]["resources"]])[0]["driver"] == 64


def test_a_ray_job_for_kubernetes() -> None:
    """No schema of it can be had without Kubernetes: its promises are checked."""
    job = load(KUBERAY)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == pinned("ray")
    assert f"rayproject/ray:{pinned('ray')}-" in (REPOSITORY / "cluster" / "Dockerfile").read_text()
    assert cluster["authOptions"] == {"mode": "token"}
    head, (worker,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert head["serviceType"] == "ClusterIP"
    (resources,) = shlex.split(head["rayStartParams"]["resources"])  # KubeRay pastes it into a shell command
    assert json.loads(resources) == {"driver": 64}
    assert worker["minReplicas"] <= worker["replicas"] <= worker["maxReplicas"]
    pods = [group["template"]["spec"] for group in (head, worker)]
    for pod in pods:
        assert pod["volumes"][0]["persistentVolumeClaim"]
        for container in pod["containers"]:
            assert container["volumeMounts"][0]["mountPath"] == "/mnt/quench"
            asked, most = container["resources"]["requests"], container["resources"]["limits"]
            assert asked.keys() == most.keys() >= {"cpu", "memory"}
    assert pods[1]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "--host=127.0.0.1" in pods[0]["containers"][1]["command"]
    assert "--storage /mnt/quench/runs" in job["spec"]["entrypoint"]
