from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

from conftest import REPOSITORY


def test_the_source_root_does_not_shadow_the_standard_library() -> None:
    assert not (REPOSITORY / "platform" / "__init__.py").exists()
    assert platform.python_implementation()


def test_imports_point_one_way() -> None:
    command = Path(sys.executable).with_name("lint-imports")  # the environment's own; it need not be activated
    done = subprocess.run([command], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_importing_quench_loads_nothing_heavy() -> None:
    code = (
        "import sys, quench, quench.cli; print([m for m in ('torch', 'ray', 'mlflow', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_are_there() -> None:
    import quench

    assert all(getattr(quench, name) for name in quench.__all__)
