"""Creates an aarch64 Debian user-land with Python and an SSH server from unpacked packages.

`debootstrap` would run the install scripts of all packages under emulation, which takes minutes. Instead, apt resolves
the packages with a separate state folder (the host's list of architectures does not change), dpkg-deb unpacks them,
and this module writes the few files that the install scripts would have created and the tests need.
"""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ACCOUNT: Final = "edge"
"""The unprivileged account, without a password, that the tests deploy to."""
ACCOUNT_ID: Final = 1000

_PACKAGES: Final = (
    "base-files", "base-passwd", "bash", "coreutils", "dash", "findutils", "grep", "gzip", "hostname", "libc-bin",
    "mawk", "ncurses-base", "passwd", "procps", "sed", "tar", "util-linux",
    "python3", "python3-venv",
    "openssh-server", "openssh-sftp-server",
    "libstdc++6", "libgomp1",  # for onnxruntime and numpy
)  # fmt: skip
_UNNEEDED: Final = ("./usr/share/doc", "./usr/share/man", "./usr/share/locale", "./usr/share/info", "./usr/share/i18n")

_APT: Final = """\
APT::Architecture "arm64";
APT::Architectures {{ "arm64"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
Dir::State "{state}";
Dir::State::status "{state}/status";
Dir::Cache "{state}/cache";
Dir::Etc::sourcelist "{state}/sources.list";
Dir::Etc::sourceparts "-";
"""

_ACCOUNTS: Final = f"""\
sshd:x:100:65534::/run/sshd:/usr/sbin/nologin
{ACCOUNT}:x:{ACCOUNT_ID}:{ACCOUNT_ID}::/home/{ACCOUNT}:/bin/bash
"""


def cached_userland(cache: Path) -> Path:
    """Return the root folder of the user-land, created if it is not in the cache yet. Callers must not change it.

    Raises RuntimeError with the output of the tool that failed.

    """
    key = hashlib.sha256(Path(__file__).read_bytes() + _codename().encode()).hexdigest()[:16]
    root = cache / f"arm-{key}"
    with exclusive(cache):
        if not root.exists():
            with created_atomically(root) as folder:
                _create(folder)
    return root


@contextmanager
def exclusive(cache: Path) -> Iterator[None]:
    """Lock the cache and remove incomplete folders of runs that were killed."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in cache.glob(".incomplete-*"):
            shutil.rmtree(leftover)
        yield


@contextmanager
def created_atomically(path: Path) -> Iterator[Path]:
    """Yield a folder that becomes `path` if the block succeeds and is removed if it raises."""
    with tempfile.TemporaryDirectory(prefix=".incomplete-", dir=path.parent) as folder:
        complete = Path(folder) / "complete"
        complete.mkdir()
        yield complete
        complete.rename(path)


def python_version(root: Path) -> str:
    """Return major and minor version of the user-land's Python."""
    return (root / "usr/bin/python3").readlink().name.removeprefix("python")


def call(*command: str | Path, **environment: str) -> str:
    """Run a program of the host and return its standard output. Raises RuntimeError with the end of its output."""
    result = subprocess.run(
        [str(part) for part in command], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))} failed: {(result.stderr or result.stdout)[-2000:]}")
    return result.stdout


def _create(root: Path) -> None:
    with tempfile.TemporaryDirectory() as state:
        for package in _download(Path(state)):
            _unpack(package, root)
    for name in ("passwd", "group"):
        shutil.copy(root / f"usr/share/base-passwd/{name}.master", root / "etc" / name)
    with (root / "etc/passwd").open("a") as accounts:
        accounts.write(_ACCOUNTS)
    with (root / "etc/group").open("a") as groups:
        groups.write(f"{ACCOUNT}:x:{ACCOUNT_ID}:\n")
    # '*' allows only key logins; '!' would lock the account
    (root / "etc/shadow").write_text(f"root:*:19000::::::\nsshd:!:19000::::::\n{ACCOUNT}:*:19000:0:99999:7:::\n")
    (root / "etc/shadow").chmod(0o600)
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    (root / "etc/hostname").write_text("arm-device\n")
    # pip must not compile all files under emulation; Python compiles those that it imports. In a configuration file the
    # value of `no-compile` is inverted, as pip's manual says.
    (root / "etc/pip.conf").write_text("[install]\nno-compile = false\n")
    (root / "usr/bin/awk").symlink_to("mawk")  # as update-alternatives would
    home = root / "home" / ACCOUNT
    home.mkdir(parents=True)
    os.chown(home, ACCOUNT_ID, ACCOUNT_ID)
    (root / "tmp").chmod(0o1777)
    (root / "run/sshd").mkdir(parents=True, exist_ok=True)


def _download(state: Path) -> list[Path]:
    """Download the packages and their dependencies from the package sources of the host."""
    (state / "status").touch()
    (state / "sources.list").write_text("".join(_sources()))
    (state / "apt.conf").write_text(_APT.format(state=state))
    for folder in ("lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True)
    environment = {"APT_CONFIG": str(state / "apt.conf"), "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    call("apt-get", "update", "--error-on=any", **environment)
    call("apt-get", "install", "--yes", "--download-only", *_PACKAGES, **environment)
    return sorted((state / "cache/archives").glob("*.deb"))


def _sources() -> list[str]:
    """Return the package sources of the host's own distribution as lines of a sources.list."""
    targets = call("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages")
    suites = [f"{_codename()}{pocket}" for pocket in ("", "-updates", "-security")]
    keyring = Path(f"/usr/share/keyrings/{platform.freedesktop_os_release()['ID']}-archive-keyring.gpg")
    signed = f"[signed-by={keyring}] " if keyring.exists() else ""
    found = [line for line in sorted(set(targets.splitlines())) if line.split()[1:] in [[s, "main"] for s in suites]]
    if not found:
        raise RuntimeError(
            f"the host's apt has no package source for {_codename()}, so the user-land cannot be created"
        )
    return [f"deb {signed}{line}\n" for line in found]


def _codename() -> str:
    return platform.freedesktop_os_release().get("VERSION_CODENAME", "")


def _unpack(package: Path, root: Path) -> None:
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as tar:
        excluded = [f"--exclude={folder}/*" for folder in _UNNEEDED]
        subprocess.run(["tar", "--extract", "--directory", str(root), *excluded], stdin=tar.stdout, check=True)
    if tar.returncode != 0:
        raise RuntimeError(f"dpkg-deb could not read {package.name}")
