"""Makes an aarch64 Debian user-land with Python and an SSH server, from packages unpacked rather than installed.

`debootstrap` would run every package's set-up script under emulation, for minutes. Nothing here needs them: apt finds
the packages in a state of its own (the host's list of architectures stays as it is), dpkg-deb unpacks them, and what
their scripts would have made and the tests need is written by hand.
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
"""The account that devices are deployed to: no root, no password."""
ACCOUNT_ID: Final = 1000

_PACKAGES: Final = (
    "base-files", "base-passwd", "bash", "coreutils", "dash", "findutils", "grep", "gzip", "hostname", "libc-bin",
    "mawk", "ncurses-base", "passwd", "procps", "sed", "tar", "util-linux",
    "python3", "python3-venv",
    "openssh-server", "openssh-sftp-server",
    "libstdc++6", "libgomp1",  # of onnxruntime and numpy
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
    """Return the root of the user-land, made if it is not in the cache yet. Nobody may change what is in it.

    Raises RuntimeError with the words of the tool that failed.

    """
    key = hashlib.sha256(Path(__file__).read_bytes() + _codename().encode()).hexdigest()[:16]
    root = cache / f"arm-{key}"
    with exclusive(cache):
        if not root.exists():
            with made_whole(root) as folder:
                _make(folder)
    return root


@contextmanager
def exclusive(cache: Path) -> Iterator[None]:
    """Hold the cache: whatever is half-made in it then is of a run that was killed, and is removed."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in cache.glob(".making-*"):
            shutil.rmtree(leftover)
        yield


@contextmanager
def made_whole(path: Path) -> Iterator[Path]:
    """Give a folder to fill, which becomes `path` when the block ends well and is removed when it does not."""
    with tempfile.TemporaryDirectory(prefix=".making-", dir=path.parent) as folder:
        whole = Path(folder) / "whole"
        whole.mkdir()
        yield whole
        whole.rename(path)


def python_version(root: Path) -> str:
    """Return major and minor version of the user-land's Python."""
    return (root / "usr/bin/python3").readlink().name.removeprefix("python")


def call(*command: str | Path, **environment: str) -> str:
    """Run a tool of the host and return what it printed. Raises RuntimeError with its last words."""
    done = subprocess.run(
        [str(part) for part in command], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))} failed: {(done.stderr or done.stdout)[-2000:]}")
    return done.stdout


def _make(root: Path) -> None:
    with tempfile.TemporaryDirectory() as state:
        for package in _download(Path(state)):
            _unpack(package, root)
    for name in ("passwd", "group"):
        shutil.copy(root / f"usr/share/base-passwd/{name}.master", root / "etc" / name)
    with (root / "etc/passwd").open("a") as accounts:
        accounts.write(_ACCOUNTS)
    with (root / "etc/group").open("a") as groups:
        groups.write(f"{ACCOUNT}:x:{ACCOUNT_ID}:\n")
    # '*' is no password and lets a key in, where '!' would lock the account
    (root / "etc/shadow").write_text(f"root:*:19000::::::\nsshd:!:19000::::::\n{ACCOUNT}:*:19000:0:99999:7:::\n")
    (root / "etc/shadow").chmod(0o600)
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    (root / "etc/hostname").write_text("arm-device\n")
    # Python compiles what it needs when it does; pip would compile all of it, under emulation. In a configuration file
    # pip reads `no-compile` the wrong way round, and its manual says so.
    (root / "etc/pip.conf").write_text("[install]\nno-compile = false\n")
    (root / "usr/bin/awk").symlink_to("mawk")  # as the system of alternatives would
    home = root / "home" / ACCOUNT
    home.mkdir(parents=True)
    os.chown(home, ACCOUNT_ID, ACCOUNT_ID)
    (root / "tmp").chmod(0o1777)
    (root / "run/sshd").mkdir(parents=True, exist_ok=True)


def _download(state: Path) -> list[Path]:
    """Fetch the packages and all that they depend on, from where the host's own apt gets its packages."""
    (state / "status").touch()
    (state / "sources.list").write_text("".join(_sources()))
    (state / "apt.conf").write_text(_APT.format(state=state))
    for folder in ("lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True)
    ours = {"APT_CONFIG": str(state / "apt.conf"), "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    call("apt-get", "update", "--error-on=any", **ours)
    call("apt-get", "install", "--yes", "--download-only", *_PACKAGES, **ours)
    return sorted((state / "cache/archives").glob("*.deb"))


def _sources() -> list[str]:
    """Return the host's sources of its own distribution, as lines of a sources.list."""
    told = call("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages")
    suites = [f"{_codename()}{pocket}" for pocket in ("", "-updates", "-security")]
    keyring = Path(f"/usr/share/keyrings/{platform.freedesktop_os_release()['ID']}-archive-keyring.gpg")
    signed = f"[signed-by={keyring}] " if keyring.exists() else ""
    found = [line for line in sorted(set(told.splitlines())) if line.split()[1:] in [[s, "main"] for s in suites]]
    if not found:
        raise RuntimeError(f"the host's apt knows no source of {_codename()}, so the user-land cannot be made")
    return [f"deb {signed}{line}\n" for line in found]


def _codename() -> str:
    return platform.freedesktop_os_release().get("VERSION_CODENAME", "")


def _unpack(package: Path, root: Path) -> None:
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as tar:
        excluded = [f"--exclude={folder}/*" for folder in _UNNEEDED]
        subprocess.run(["tar", "--extract", "--directory", str(root), *excluded], stdin=tar.stdout, check=True)
    if tar.returncode != 0:
        raise RuntimeError(f"dpkg-deb could not read {package.name}")
