"""`edgeexit deploy` to an aarch64 machine over SSH, with the packages that such a device really gets."""

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgeexit.bundle import Bundle, GoldenSamples, bundle_folder, write_golden, write_manifest
from tests.arm.machine import SLOW_S, Machine
from tests.arm.sshd import SshServer, ssh_server
from tests.bundles import make_bundle

pytestmark = pytest.mark.arm

_DEPLOY = (sys.executable, "-c", "from edgeexit.cli.main import main; main()", "deploy")


@pytest.fixture(scope="module")
def server(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with ssh_server(machine, tmp_path_factory.mktemp("ssh")) as server:
        yield server


@pytest.fixture
def port() -> int:
    """A free port for the agent's endpoint; this machine and the device share their network."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def config(tmp_path: Path, port: int) -> Path:
    file = tmp_path / "agent.toml"
    file.write_text(
        f'fleet = "plant"\ndevice = "arm-2"\n[broker]\nurl = "mqtt://127.0.0.1:1"\n[endpoint]\nport = {port}\n'
    )
    return file


def edgeexit_deploy(server: SshServer, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run `edgeexit deploy` as somebody would who has the device's host key."""
    reach = ["--port", str(server.port), "--identity", server.identity, "--json", "--timeout", f"{SLOW_S:g}"]
    trust = ["-o", f"UserKnownHostsFile={server.known_hosts}", "-o", "StrictHostKeyChecking=yes"]
    return subprocess.run(
        [*_DEPLOY, *arguments, *reach, *trust],
        env={**os.environ, "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=3 * SLOW_S, check=False,
    )  # fmt: skip


def deployed(server: SshServer, *arguments: str | Path) -> dict[str, Any]:
    done = edgeexit_deploy(server, *arguments)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def ask(port: int, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.DeployRequest(f"http://127.0.0.1:{port}/v2/models/{path}", data=data)
    with urllib.request.urlopen(request, timeout=SLOW_S) as reply:  # noqa: S310 - of the device
        return json.load(reply)


def answering_wrongly(bundle: Bundle, folder: Path) -> Path:
    """Write a bundle that is whole, and whose stages do not give the answers that its golden samples promise."""
    golden = bundle.golden()
    with bundle_folder(folder) as made:
        for name in bundle.manifest.files:
            shutil.copy(bundle.path / name, made / name)
        write_golden(
            made, GoldenSamples(inputs=golden.inputs, exits={name: -found for name, found in golden.exits.items()})
        )
        write_manifest(made, msgspec.structs.replace(bundle.manifest, files={}))
    return folder


def test_releases_come_and_go_and_a_broken_one_goes_by_itself(
    server: SshServer, machine: Machine, bundle: Bundle, images: np.ndarray, wheel: Path, wheelhouse: Path,
    config: Path, port: int, tmp_path: Path,
) -> None:  # fmt: skip
    assert server.run("uname", "-m").strip() == "aarch64"
    packages = ["--wheel", wheel, "--wheelhouse", wheelhouse]
    first = deployed(server, bundle.path, server.destination, "--config", config, *packages)
    assert (first["outcome"], first["service"], first["user"]) == ("healthy", "process", "edge")
    assert ask(port, "ThreeExits")["versions"] == [bundle.digest]
    image = {"name": "image", "shape": [8, 3, 16, 16], "datatype": "FP32", "data": images[:8].ravel().tolist()}
    answer = ask(port, "ThreeExits/infer", {"inputs": [image]})
    outputs = next(output for output in answer["outputs"] if output["name"] == "outputs")
    expected = bundle.golden().exits["exit2"]  # without a policy of its own, all run to full depth
    np.testing.assert_allclose(np.reshape(outputs["data"], outputs["shape"]), expected, atol=1e-4, rtol=1e-4)

    other = make_bundle(tmp_path / "other", seed=3, target="arm64-cpu")
    second = deployed(server, other.path, server.destination, *packages)
    assert (second["replaces"], second["environment"]) == (first["release"], "kept")
    assert ask(port, "tiny")["versions"] == [other.digest]

    broken = answering_wrongly(other, tmp_path / "broken")
    refused = edgeexit_deploy(server, broken, server.destination, *packages)
    assert refused.returncode == 2, refused.stderr[-4000:]
    assert f"rolled back to {second['release']}, which serves again" in refused.stderr
    assert "golden" in refused.stderr
    assert ask(port, "tiny")["versions"] == [other.digest]

    back = deployed(server, "rollback", server.destination)
    assert (back["release"], back["replaces"]) == (first["release"], second["release"])
    assert ask(port, "ThreeExits")["versions"] == [bundle.digest]
    assert machine.outside("/home/edge/edgeexit/current").readlink() == Path("releases") / first["release"]
