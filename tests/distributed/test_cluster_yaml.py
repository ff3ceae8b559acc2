"""cluster.yaml against Ray's own schema, which `ray up` checks first."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from conftest import REPOSITORY


def load() -> dict[str, Any]:
    return yaml.safe_load((REPOSITORY / "cluster.yaml").read_text())


def test_ray_accepts_it() -> None:
    validate_config(prepare_config(load()))


def test_the_check_can_fail() -> None:
    with pytest.raises(Exception, match="head_node_typo"):
        validate_config(prepare_config(load() | {"head_node_typo": "head"}))


def test_every_ray_process_asks_for_the_token_and_nothing_is_public() -> None:
    config = load()
    starts = config["head_start_ray_commands"][1:] + config["worker_start_ray_commands"][1:]
    assert len(starts) == 2
    for command in starts:
        assert "RAY_AUTH_MODE=token" in command
        assert "0.0.0.0" not in command
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
