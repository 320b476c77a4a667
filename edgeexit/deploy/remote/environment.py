"""The step `environment`: create the Python environment of a release, unless it exists."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from edgeexit.deploy.remote.documents import EnvironmentArguments, EnvironmentReply
from edgeexit.deploy.remote.inventory import sha256_of
from edgeexit.deploy.remote.layout import COMPLETE_FILE, VENVS, WHEELS, StepError, operation_lock, write_durably

_SHOWN_LINES = 3


def main(root: Path, arguments: EnvironmentArguments) -> EnvironmentReply:
    """Create `venvs/<key>` and write its file `complete` last.

    The environment is created at its final path, because environments cannot be moved. Raises StepError with the last
    lines of the output if a package cannot be installed or a probe fails.
    """
    with operation_lock(root):
        venv = root / VENVS / arguments["key"]
        if (venv / COMPLETE_FILE).is_file():
            return {"created": False}
        _check_wheels(root / WHEELS, arguments["wheels"])
        shutil.rmtree(venv, ignore_errors=True)
        venv.parent.mkdir(exist_ok=True)
        try:
            _create(root, venv, arguments)
        except BaseException:
            shutil.rmtree(venv, ignore_errors=True)
            raise
    return {"created": True}


def run_program(failure: str, *command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    """Run a program. For an exit status other than 0, raise StepError with `failure` and the end of the output."""
    result = subprocess.run(  # noqa: S603 - a fixed command, no shell
        command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if result.returncode:
        output = [line.strip() for line in (result.stdout + result.stderr).splitlines() if line.strip()]
        errors = [line for line in output if "ERROR" in line or "Error" in line] or output
        raise StepError(f"{failure}: {' '.join(errors[-_SHOWN_LINES:]) or f'exit status {result.returncode}'}")


def _create(root: Path, venv: Path, arguments: EnvironmentArguments) -> None:
    # venv and pip write more than a hundred MiB of temporary files; /tmp may be in memory, and small.
    temporary = venv / "tmp"
    temporary.mkdir(parents=True)
    environ = {**os.environ, "TMPDIR": str(temporary)}
    system = ["--system-site-packages"] if arguments["system_packages"] else []
    run_program("the environment cannot be created", sys.executable, "-m", "venv", *system, str(venv), env=environ)
    python = str(venv / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--no-input", "--no-cache-dir", "install", "--quiet"]
    wheels = _link_wheels(venv / "wheels", root / WHEELS, arguments["wheels"])
    requirements = venv / "requirements.txt"
    requirements.write_text(
        "".join(f"{line}\n" for line in arguments["requirements"]).replace("{wheels}", wheels.as_uri())
    )
    if arguments["hashed"]:
        pip += ["--require-hashes"]
    if arguments["offline"]:
        pip += ["--no-index", "--find-links", str(wheels)]
    run_program(
        "the packages cannot be installed", *pip, "--only-binary=:all:", "--requirement", str(requirements), env=environ
    )
    for code in arguments["probes"]:
        run_program(f"the new environment does not work ({code})", python, "-c", code)
    shutil.rmtree(venv / "wheels", ignore_errors=True)
    shutil.rmtree(temporary, ignore_errors=True)
    run_program("the environment cannot be written to disk", "sync")
    write_durably(venv / COMPLETE_FILE, "")


def _check_wheels(folder: Path, hashes: dict[str, str]) -> None:
    """Raise StepError if a wheel has another SHA-256, for example because it was replaced since the copy."""
    for name, sha256 in hashes.items():
        if sha256_of(folder / name) != sha256:
            raise StepError(f"the wheel '{name}' has changed since it was copied; run the same command again")


def _link_wheels(folder: Path, wheels: Path, names: Iterable[str]) -> Path:
    """Return a new folder with links to the named wheels; `wheels` may also contain wheels of other environments."""
    folder.mkdir()
    for name in names:
        (folder / name).symlink_to(wheels / name)
    return folder
