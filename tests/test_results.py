"""The README's tables are those of the committed results."""

from __future__ import annotations

import subprocess
import sys

from conftest import REPOSITORY


def test_the_readme_has_the_tables_of_the_results() -> None:
    script = REPOSITORY / "experiments" / "results" / "tables.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    blocks = done.stdout.strip().split("\n\n")
    rows = [len(block.splitlines()) - 2 for block in blocks]  # each below a head of two lines
    assert rows == [14, 14, 6, 6, 8, 4, 3, 4, 19, 2, 10, 7, 7, 20]
    readme = (REPOSITORY / "README.md").read_text()
    assert [block for block in blocks if f"\n\n{block}\n\n" not in readme] == []
