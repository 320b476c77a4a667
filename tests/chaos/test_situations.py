"""The short form of scripts/chaos keeps every promise, and leaves nothing behind when it is interrupted."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SITUATIONS = (
    "kills", "brokers", "calibrators", "postgres", "processes", "calibrator-disk", "links", "disks", "rollback", "bits",
    "clones", "nonsense", "packets", "cost",
)  # fmt: skip
_LIMIT_S = 1200.0
"""Far above what a run needs on a busy machine."""
COMMAND = [sys.executable, "-m", "scripts.chaoslab"]


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def checks() -> dict[str, list[dict]]:
    """Run all situations once; return the checks of each."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*COMMAND, "--json", "--jobs", "5", *(word for name in SITUATIONS for word in ("--only", name))]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment(Path(folder)),
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            check=False,
        )
        left = list(Path(folder).iterdir())
    assert done.stdout, done.stderr
    assert left == []
    found: dict[str, list[dict]] = {}
    for check in json.loads(done.stdout)["checks"]:
        found.setdefault(check["situation"], []).append(check)
    return found


@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_promise_is_kept(checks, situation):
    found = checks[situation]
    broken = [f"{check['promise']}: {check['counted']}; {check['notes']}" for check in found if check["kept"] is False]
    assert not broken, "\n".join(broken)
    if all(check["kept"] is None for check in found):
        pytest.skip(found[0]["counted"])


def processes_in(folder: Path) -> list[str]:
    """Return the command lines of the processes that were started with this TMPDIR."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"TMPDIR={folder}\0".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text())
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing_behind(tmp_path, number):
    command = [*COMMAND, "--only", "kills", "--only", "disks"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(tmp_path), stderr=subprocess.PIPE, start_new_session=True
    )
    deadline = time.monotonic() + _LIMIT_S
    while not list(tmp_path.glob("*/kills/*/ledger-0001.jsonl")):
        assert time.monotonic() < deadline, "no agent has started"
        time.sleep(0.05)
    process.send_signal(number)
    _, text = process.communicate(timeout=_LIMIT_S)
    assert process.returncode == 130, text.decode()
    deadline = time.monotonic() + _LIMIT_S
    while processes_in(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_in(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
