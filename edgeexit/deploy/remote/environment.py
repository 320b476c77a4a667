"""Makes the Python environment that a release runs in, or finds it made."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from edgeexit.deploy.remote.layout import COMPLETE_FILE, VENVS, WHEELS, RefusedError, answer, operation, write_durably

_SHOWN_LINES = 3


def main(arguments: dict[str, Any]) -> None:
    """Make `venvs/<key>` at its final place, since environments cannot be moved; its last file says that it is whole.

    Refuses with pip's own last words where the packages cannot be had or do not work here.
    """
    root = Path(arguments["root"])
    with operation(root):
        venv = root / VENVS / arguments["key"]
        if (venv / COMPLETE_FILE).is_file():
            answer(made=False)
            return
        shutil.rmtree(venv, ignore_errors=True)
        venv.parent.mkdir(exist_ok=True)
        try:
            _make(root, venv, arguments)
        except BaseException:
            shutil.rmtree(venv, ignore_errors=True)
            raise
    answer(made=True)


def _make(root: Path, venv: Path, arguments: dict[str, Any]) -> None:
    system = ["--system-site-packages"] if arguments["system_packages"] else []
    run("the environment cannot be made", sys.executable, "-m", "venv", *system, str(venv))
    python = str(venv / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--no-input", "--no-cache-dir", "install", "--quiet"]
    if arguments["offline"]:
        pip += ["--no-index", "--find-links", str(_only_these(venv / "wheels", root / WHEELS, arguments["wheels"]))]
    run("the packages cannot be installed", *pip, "--only-binary=:all:", *arguments["requirements"])
    for code in arguments["probes"]:
        run(f"the new environment does not work ({code})", python, "-c", code)
    shutil.rmtree(venv / "wheels", ignore_errors=True)
    run("the environment cannot be made durable", "sync")
    write_durably(venv / COMPLETE_FILE, "\n".join(arguments["requirements"]) + "\n")


def _only_these(folder: Path, wheels: Path, names: list[str]) -> Path:
    """Return a folder of links to the wheels of this environment: others there are of earlier deployments."""
    folder.mkdir()
    for name in names:
        (folder / name).symlink_to(wheels / name)
    return folder


def run(what: str, *command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    """Run a program. Raises RefusedError with `what` and its last words where it fails."""
    result = subprocess.run(  # noqa: S603 - our own words, and no shell
        command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if result.returncode:
        said = [line.strip() for line in (result.stdout + result.stderr).splitlines() if line.strip()]
        errors = [line for line in said if "ERROR" in line or "Error" in line] or said
        raise RefusedError(f"{what}: {' '.join(errors[-_SHOWN_LINES:]) or f'exit status {result.returncode}'}")
