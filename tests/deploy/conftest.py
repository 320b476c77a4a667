"""A local device: a real sshd on this machine, one Python environment for all tests, and the real agent."""

import contextlib
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeexit.bundle import Bundle
from edgeexit.deploy import DeploymentResult, DeployOptions, deploy
from edgeexit.deploy.packages import find_wheel
from tests.bundles import make_bundle
from tests.deploy.empty_wheels import link_python, make_wheelhouse
from tests.deploy.local_sshd import MISSING, SERVER, Sshd
from tests.recorded_progress import RecordedProgress


class LocalDevice:
    """The device that the tests deploy to; between tests everything except its environments is removed."""

    def __init__(self, folder: Path, sshd: Sshd, wheel: Path, wheels: Path) -> None:
        self.root = folder
        self.sshd = sshd
        self.wheel = wheel
        self.wheels = wheels
        self.steps: list[str] = []
        """Steps of the last deployment."""

    @property
    def current(self) -> str | None:
        link = self.root / "current"
        return link.readlink().name if link.is_symlink() else None

    def push(
        self, bundle: Bundle, config: Path | None = None, progress: RecordedProgress | None = None, **fields: Any
    ) -> DeploymentResult:
        progress = progress or RecordedProgress()
        self.steps = progress.steps
        options = {
            "address": self.sshd.address(), "folder": str(self.root), "wheel": self.wheel, "wheelhouse": self.wheels,
            "retry_delays_s": (0.1, 0.1), "timeout_s": 40.0, "service": "process",
        }  # fmt: skip
        return deploy(DeployOptions(bundle=bundle.path, config=config, **{**options, **fields}), progress=progress)

    def clean_up(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((self.root / "agent.pid").read_text()), signal.SIGKILL)
        for entry in self.root.glob("*"):
            if entry.name not in {"venvs", "wheels"}:
                entry.unlink() if entry.is_symlink() or entry.is_file() else shutil.rmtree(entry)


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    if SERVER is None or shutil.which("ssh") is None:
        pytest.skip(MISSING)
    server = Sshd(tmp_path_factory.mktemp("sshd") / "server")
    link_python(server.programs)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the code under test."""
    return find_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_wheelhouse(tmp_path_factory.mktemp("wheelhouse") / "wheels")


@pytest.fixture(scope="session")
def device_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("device") / "edgeexit"


@pytest.fixture
def device(sshd: Sshd, wheel: Path, wheels: Path, device_folder: Path) -> Iterator[LocalDevice]:
    known_hosts = (sshd.folder / "known_hosts").read_text()
    local = LocalDevice(device_folder, sshd, wheel, wheels)
    yield local
    local.clean_up()
    (sshd.folder / "known_hosts").write_text(known_hosts)


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Bundle]:
    """Two bundles of one model with different weights."""
    folder = tmp_path_factory.mktemp("bundles")
    return make_bundle(folder / "one", seed=1), make_bundle(folder / "two", seed=2)


@pytest.fixture
def write_config(tmp_path: Path) -> Callable[..., Path]:
    """Write a configuration with a free port and return its path."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]

    def write(more: str = "", name: str = "one") -> Path:
        folder = tmp_path / f"config-{name}"
        folder.mkdir()
        text = f'fleet = "shop"\ndevice = "{name}"\n{more}\n[broker]\nurl = "mqtt://127.0.0.1:1"\n'
        text += f"[endpoint]\nport = {port}\n"
        (folder / "agent.toml").write_text(text)
        return folder / "agent.toml"

    return write
