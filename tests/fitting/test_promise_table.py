"""The tables about the guarantee over time in docs/policies.md."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_the_tables_in_the_documentation_are_those_that_the_code_computes():
    subprocess.run([sys.executable, ROOT / "scripts" / "promise_table.py", "--check"], check=True, cwd=ROOT)
