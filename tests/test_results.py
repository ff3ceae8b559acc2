"""The README's tables are those of the committed results."""

from __future__ import annotations

import subprocess
import sys

from conftest import REPOSITORY


def test_the_readme_has_the_tables_of_the_results() -> None:
    script = REPOSITORY / "experiments" / "results" / "tables.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    readme = (REPOSITORY / "README.md").read_text()
    lines = [line for line in done.stdout.splitlines() if line]
    assert len(lines) == 2 * (2 + 14) + (2 + 6) + (2 + 6) + (2 + 8) + (2 + 4) + (2 + 3) + (2 + 4)
    assert [line for line in lines if line not in readme] == []
