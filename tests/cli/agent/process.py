"""Runs `edgeexit agent` in a separate process."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from edgeexit.bundle import Bundle

AGENT = [sys.executable, "-c", "from edgeexit.cli.main import main; main()", "agent"]


@contextmanager
def running(bundle: Bundle, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*AGENT, str(bundle.path), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            yield process
        finally:
            process.kill()
