"""The README's tables are those of the committed results."""

from __future__ import annotations

import subprocess
import sys

from conftest import REPOSITORY


def test_the_readme_has_the_tables_of_the_results() -> None:
    script = REPOSITORY / "experiments" / "results" / "tables.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    blocks = done.stdout.strip().split("\n\n")
    assert len(blocks) == 14
    assert all(len(block.splitlines()) > 3 for block in blocks), "a head, and more than one row"
    readme = (REPOSITORY / "README.md").read_text()
    assert [block for block in blocks if f"\n\n{block}\n\n" not in readme] == []
