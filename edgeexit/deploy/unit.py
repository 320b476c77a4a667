"""The systemd unit of a deployed agent: watchdog, restarts and a sandbox."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Final, Literal

from edgeexit.errors import ConfigError

Manager = Literal["system", "user"]
DeviceAccess = Literal["none", "raspberry-pi", "gpu"]
"""Device files that the agent may open: none, those for the clocks and power of a Raspberry Pi, or all (for a GPU)."""

WATCHDOG_S: Final = 30
_STATE: Final = "state"
_START_S: Final = 120
_START_WITH_GPU_S: Final = 1800
"""Before it is ready, the agent builds the TensorRT engines that are not in its cache."""

_SANDBOX: Final = (
    "# The disk is read-only except for the state; other processes, the kernel and the clock are not accessible.",
    "ProtectSystem=strict",
    "PrivateTmp=yes",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelLogs=yes",
    "ProtectControlGroups=yes",
    "ProtectHostname=yes",
    "ProtectProc=invisible",
    "CapabilityBoundingSet=",
    "AmbientCapabilities=",
)
_HOMES: Final = ("/home/", "/root/")
_DEVICES: Final[dict[DeviceAccess, tuple[str, ...]]] = {
    "none": ("PrivateDevices=yes", "DevicePolicy=closed", "ProtectClock=yes"),
    "raspberry-pi": (
        "DevicePolicy=closed",
        "DeviceAllow=/dev/vcio rw",
        "DeviceAllow=/dev/vchiq rw",
        "ProtectClock=yes",
    ),
    "gpu": (
        "# Device files are not restricted: the names of GPU device files differ between versions of JetPack, and",
        "# ProtectClock would block them, too.",
    ),
}
_UNPRIVILEGED: Final = (
    "NoNewPrivileges=yes",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "LockPersonality=yes",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "SystemCallErrorNumber=EPERM",
    "UMask=0077",
)


def unit_name(folder: str) -> str:
    """Return the name of the unit: `edgeexit`, or `edgeexit-NAME` if the deployment's folder is called NAME."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", PurePosixPath(folder).name).strip("-")
    return "edgeexit" if name in {"", "edgeexit"} else f"edgeexit-{name}"


def render_unit(
    folder: str,
    *,
    manager: Manager = "system",
    user: str = "",
    devices: DeviceAccess = "none",
    writable_folders: Sequence[str] = (),
    python: str = "",
) -> str:
    """Return the text of the unit.

    Args:
        folder: absolute path of the deployment's folder on the device.
        manager: `system` for the systemd of the system, `user` for that of the user. A user's systemd cannot set up
            mounts and capabilities on every system, so its unit has only the options that need no privileges.
        user: the user that the agent runs as; only for `system`.
        devices: the device files that the agent may open.
        writable_folders: absolute folders, besides `state`, that the agent writes to.
        python: path of the environment's base interpreter. If it is in a home folder, home folders stay readable.

    Raises ConfigError if `folder` is not absolute, or if a path or the user has characters that systemd interprets.

    """
    for text in (folder, user, *writable_folders):
        if not re.fullmatch(r"[A-Za-z0-9_./@+-]*", text):
            raise ConfigError(
                f"the path or user '{text}' cannot be used in a systemd unit; use only letters, digits and . _ / @ + -"
            )
    if not folder.startswith("/"):
        raise ConfigError(f"folder '{folder}' is relative; give an absolute path on the device")
    system = manager == "system"
    lines = [
        "[Unit]",
        f"Description=EdgeExit agent ({folder})",
        "# Not network-online.target: the agent serves without a network and connects to its broker later.",
        "After=network.target",
        "# No limit on restarts. The delay grows from 5 s to 120 s; before systemd 254 it is always 5 s.",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        "Type=notify",
        *([f"User={user}"] if system and user else []),
        "# The link `current` is resolved at the start, so a running agent stays in its release until it restarts.",
        f"WorkingDirectory={folder}/current",
        f"ExecStart={folder}/current/venv/bin/edgeexit agent bundle --config agent.toml",
        f"Environment=XDG_CACHE_HOME={folder}/{_STATE}/cache",
        f"TimeoutStartSec={_START_WITH_GPU_S if devices == 'gpu' else _START_S}",
        "# Pending inferences and audits are finished, and the last messages are sent, each within a limit.",
        "TimeoutStopSec=60",
        "# For `[endpoint] socket`: a folder in /run, or in $XDG_RUNTIME_DIR, that exists while the agent runs.",
        f"RuntimeDirectory={unit_name(folder)}",
        f"WatchdogSec={WATCHDOG_S}",
        "Restart=always",
        "RestartSec=5",
        "RestartSteps=5",
        "RestartMaxDelaySec=120",
        "# The agent writes some 20 lines a day; this bounds even a log that goes wrong.",
        "LogRateLimitIntervalSec=30",
        "LogRateLimitBurst=200",
        "",
        *_UNPRIVILEGED,
        "# No MemoryDenyWriteExecute: TensorRT, CUDA and some ONNX Runtime providers compile at run time.",
    ]
    if system:
        home = "read-only" if any(path.startswith(_HOMES) for path in (folder, python, *writable_folders)) else "yes"
        writes = " ".join([f"{folder}/{_STATE}", *writable_folders])
        lines += ["", *_SANDBOX, f"ProtectHome={home}", f"ReadWritePaths={writes}", *_DEVICES[devices]]
    lines += ["", "[Install]", f"WantedBy={'multi-user.target' if system else 'default.target'}", ""]
    return "\n".join(lines)
