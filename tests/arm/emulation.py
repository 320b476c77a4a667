"""Check whether the host can run aarch64 programs in a chroot, and report the missing requirement if it cannot."""

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_PROGRAMS: Final = {
    "apt-get": "apt (on Debian)",
    "dpkg-deb": "dpkg (on Debian)",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
}
_REGISTRY: Final = Path("/proc/sys/fs/binfmt_misc")
_EMULATORS: Final = (
    # The first keeps argv[0] (flag P), from which a virtual environment finds its own folder.
    (Path("/usr/libexec/qemu-binfmt/aarch64-binfmt-P"), "PF"),
    (Path("/usr/bin/qemu-aarch64-static"), "F"),
    (Path("/usr/bin/qemu-aarch64"), "F"),
)
# The first 20 bytes of a 64-bit little-endian ELF program for machine 183 (AArch64), and the mask of compared bits.
_MAGIC: Final = rb"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
_MASK: Final = rb"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"


def missing_requirement() -> str | None:
    """Return the missing requirement and how to install it, or None if the tests can run."""
    return next(_obstacles(), None)


def _obstacles() -> Iterator[str]:
    """Yield the reasons why the tests cannot run; each is checked only if there is no earlier one."""
    if platform.system() != "Linux":
        yield f"an aarch64 user-land needs Linux; this is {platform.system()}"
    if os.geteuid() != 0:
        yield "an aarch64 user-land needs root, for chroot and mounts; run as root: scripts/test --arm"
    for program, package in _PROGRAMS.items():
        if shutil.which(program) is None:
            yield f"the program {program} is missing; install {package}"
    if not _is_native() and not any(path.exists() for path, _ in _EMULATORS):
        yield "an emulator for aarch64 programs is missing; install qemu-user-static"
    result = subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False)
    if result.returncode != 0:
        yield f"this container may not create mount namespaces ({result.stderr.decode().strip()}); run it privileged"
    try:
        with aarch64_programs():
            pass
    except OSError as error:
        yield f"the kernel does not accept an emulator for aarch64 programs (binfmt_misc: {error}); run on another host"


@contextmanager
def aarch64_programs() -> Iterator[None]:
    """Let the kernel run aarch64 programs, also in a chroot; at the end, remove an emulator that was registered.

    Raises OSError if the kernel or the container does not allow it.

    """
    if _is_native() or _is_registered():
        yield
        return
    if not (_REGISTRY / "register").exists():
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(_REGISTRY)], capture_output=True, check=False)
    if _is_registered():
        yield
        return
    emulator, flags = next((path, flags) for path, flags in _EMULATORS if path.exists())
    name = f"edgeexit-tests-{os.getpid()}"  # with the pid, so that parallel runs do not remove each other's
    line = b":%s:M::%s:%s:%s:%s" % (name.encode(), _MAGIC, _MASK, bytes(emulator), flags.encode())
    (_REGISTRY / "register").write_bytes(line)
    try:
        yield
    finally:
        (_REGISTRY / name).write_bytes(b"-1")


def _is_native() -> bool:
    return platform.machine() == "aarch64"


def _is_registered() -> bool:
    """Return True if an emulator is registered that works in a chroot (flag F: the kernel has opened it already)."""
    for entry in _REGISTRY.glob("qemu-aarch64*"):
        lines = entry.read_text().splitlines()
        flags = next((line for line in lines if line.startswith("flags:")), "")
        if lines[0] == "enabled" and "F" in flags:
            return True
    return False
