"""Read and check the lock file that pins the packages of a device's environment by version and SHA-256."""

import re
from importlib.resources import files
from pathlib import Path
from typing import Final

from edgeexit.backends.traits import BackendTraits
from edgeexit.errors import DeployError
from edgeexit.files import read_limited

_MAX_BYTES: Final = 4 << 20
_NEWEST_CUDA: Final = 13
_HASH: Final = re.compile(r"--hash=sha256:[0-9a-f]{64}\b")


def read_lock(file: Path) -> str:
    """Return the text of a user's lock file: requirements for pip with `==` and `--hash`, one per package.

    Raises DeployError if it cannot be read, or if a requirement has no SHA-256.
    """
    try:
        text = read_limited(file, max_bytes=_MAX_BYTES).decode()
    except OSError as error:
        raise DeployError(f"lock file '{file}' cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DeployError(f"lock file '{file}' is not text in UTF-8") from error
    for number, line in _logical_lines(text):
        if line.startswith("-"):
            raise DeployError(
                f"lock file '{file}', line {number}: '{line.split()[0]}' is an option; only requirements are allowed"
            )
        if not _HASH.search(line):
            raise DeployError(
                f"lock file '{file}', line {number}: '{line[:60]}' has no --hash=sha256:...; write the file with "
                "`uv pip compile --generate-hashes` or `pip-compile --generate-hashes`"
            )
    return text


def shipped_lock(backend: BackendTraits, cuda_major: int | None) -> str | None:
    """Return the text of the lock file that edgeexit ships for a backend, or None; `scripts/lock` writes them."""
    name = backend.extra
    if backend.cuda_bindings:
        name = f"{name}-cuda{_NEWEST_CUDA if cuda_major is None else cuda_major}"
    file = files("edgeexit.deploy").joinpath("locks").joinpath(f"{name}.txt")
    return file.read_text() if file.is_file() else None


def _logical_lines(text: str) -> list[tuple[int, str]]:
    """Return the number and the text of each requirement; a backslash at the end of a line continues it."""
    found: list[tuple[int, str]] = []
    continued = False
    for number, line in enumerate(text.splitlines(), start=1):
        content = re.sub(r"(^|\s)#.*", "", line).strip()
        if continued and found:
            found[-1] = (found[-1][0], f"{found[-1][1]} {content.removesuffix(chr(92))}")
        elif content:
            found.append((number, content.removesuffix(chr(92))))
        continued = content.endswith(chr(92))
    return found
