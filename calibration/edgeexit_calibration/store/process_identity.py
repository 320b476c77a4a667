"""Names a process so that another one on the same host can prove that it has ended."""

import os
import re
import socket
from datetime import datetime, timezone
from pathlib import Path
from typing import Final, Literal, NamedTuple

_PROC: Final = Path("/proc")
_PLACE: Final = re.compile(r"(?P<shown>.+) \[(?P<scope>[^\s\]]+) (?P<pid>\d+) (?P<started>\d+)\]")
_START_TIME: Final = 19
"""Position of the start time in /proc/PID/stat, counted after the name of the process."""
_ENDED: Final = "ZX"

Liveness = Literal["alive", "dead", "unknown"]


class _Process(NamedTuple):
    """What identifies a process: the kernel and its name space of process ids, the id, and the start time in ticks."""

    scope: str
    pid: int
    started: int


def place_of_this_process() -> str:
    """Return host, process id and start of this process: a text for people, followed by what `liveness` reads."""
    shown = (
        f"host {socket.gethostname()}, process {os.getpid()}, since {datetime.now(timezone.utc):%Y-%m-%d %H:%M:%S} UTC"
    )
    scope, started = _scope(), _start_time(os.getpid())
    return shown if scope is None or started is None else f"{shown} [{scope} {os.getpid()} {started}]"


def shown_place(place: str) -> str:
    """Return the part of a place that is for people."""
    match = _PLACE.fullmatch(place)
    return place if match is None else match["shown"]


def liveness(place: str) -> Liveness:
    """Return whether the process at a place still runs; `unknown` if it belongs to another host or container."""
    match = _PLACE.fullmatch(place)
    if match is None or match["scope"] != _scope():
        return "unknown"
    return "alive" if _start_time(int(match["pid"])) == int(match["started"]) else "dead"


def _scope() -> str | None:
    """Return the boot of this kernel and the name space of process ids; None without /proc."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{(_PROC / 'self/ns/pid').readlink()}".replace("[", "").replace("]", "")
    except OSError:
        return None


def _start_time(pid: int) -> int | None:
    """Return the start time of a process in ticks since the boot; None if it does not run."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (OSError, UnicodeDecodeError):
        return None
    return None if fields[0] in _ENDED else int(fields[_START_TIME])
