"""The systemd unit of a deployed agent: watched, restarted, and kept away from what it does not need."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Final, Literal

from edgeexit.errors import ConfigError

Manager = Literal["system", "user"]
Devices = Literal["none", "raspberry-pi", "gpu"]
"""Device files that an agent needs: none, those that tell a Raspberry Pi's clocks and power, or a GPU's."""

WATCHDOG_S: Final = 30
_STATE: Final = "state"
_START_S: Final = 120
_START_WITH_PLANS_S: Final = 1800
"""TensorRT plans that are not cached are built before the agent is ready."""

_SANDBOX: Final = (
    "# The disk is read-only but for the state; other programs, kernel and clock are out of reach.",
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
_DEVICES: Final[dict[Devices, tuple[str, ...]]] = {
    "none": ("PrivateDevices=yes", "DevicePolicy=closed", "ProtectClock=yes"),
    "raspberry-pi": (
        "DevicePolicy=closed",
        "DeviceAllow=/dev/vcio rw",
        "DeviceAllow=/dev/vchiq rw",
        "ProtectClock=yes",
    ),
    "gpu": (
        "# A GPU's device files have other names in every JetPack, so their groups and modes guard them; ProtectClock",
        "# would close them, too.",
    ),
}
_WITHOUT_PRIVILEGES: Final = (
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
    """Return the name of the service of a deployment's folder: `edgeexit`, or `edgeexit-NAME` for another folder."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", PurePosixPath(folder).name).strip("-")
    return "edgeexit" if name in {"", "edgeexit"} else f"edgeexit-{name}"


def render_unit(
    folder: str,
    *,
    manager: Manager = "system",
    user: str = "",
    devices: Devices = "none",
    writable: Sequence[str] = (),
    python: str = "",
) -> str:
    """Return the unit's text.

    Args:
        folder: absolute path of the deployment on the device; `current` in it names what runs.
        manager: the system's systemd, or the user's own. The latter may not set up a sandbox of mounts and
            capabilities on all systems, so its unit has only what needs no privileges.
        user: whom the agent runs as; only with the system's.
        devices: what it needs of /dev.
        writable: absolute folders, beside the state, that it writes to.
        python: the interpreter behind the environment, where that may lie in somebody's home.

    Raises ConfigError for what systemd would misread.

    """
    for text in (folder, user, *writable):
        if not re.fullmatch(r"[A-Za-z0-9_./@+-]*", text):
            raise ConfigError(f"'{text}' cannot stand in a systemd unit; use letters, digits and . _ / @ + -")
    if not folder.startswith("/"):
        raise ConfigError(f"'{folder}' must be an absolute path of the device")
    system = manager == "system"
    lines = [
        "[Unit]",
        f"Description=EdgeExit agent ({folder})",
        "# Not network-online: the agent answers without a network and finds its broker when there is one.",
        "After=network.target",
        "# It is never given up; the waits between starts grow (systemd 254 and newer, others wait 5 s each time).",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        "Type=notify",
        *([f"User={user}"] if system and user else []),
        "# Resolved when it starts: an agent stays in its release until it is restarted.",
        f"WorkingDirectory={folder}/current",
        f"ExecStart={folder}/current/venv/bin/edgeexit agent bundle --config agent.toml",
        f"Environment=XDG_CACHE_HOME={folder}/{_STATE}/cache",
        f"TimeoutStartSec={_START_WITH_PLANS_S if devices == 'gpu' else _START_S}",
        "TimeoutStopSec=30",
        f"WatchdogSec={WATCHDOG_S}",
        "Restart=always",
        "RestartSec=5",
        "RestartSteps=5",
        "RestartMaxDelaySec=120",
        "",
        *_WITHOUT_PRIVILEGES,
        "# No MemoryDenyWriteExecute: TensorRT and CUDA compile at run time, and ONNX Runtime's providers may.",
    ]
    if system:
        home = "read-only" if any(path.startswith(_HOMES) for path in (folder, python, *writable)) else "yes"
        writes = " ".join([f"{folder}/{_STATE}", *writable])
        lines += ["", *_SANDBOX, f"ProtectHome={home}", f"ReadWritePaths={writes}", *_DEVICES[devices]]
    lines += ["", "[Install]", f"WantedBy={'multi-user.target' if system else 'default.target'}", ""]
    return "\n".join(lines)
