"""`edgeexit deploy` to an emulated aarch64 machine over SSH, with the published aarch64 packages."""

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
    """A free port for the agent's endpoint; the device shares the network of this machine."""
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
    """Run `edgeexit deploy` with the device's key in known_hosts."""
    connection = ["--port", str(server.port), "--identity", server.identity, "--json", "--timeout", f"{SLOW_S:g}"]
    known_hosts = ["-o", f"UserKnownHostsFile={server.known_hosts}", "-o", "StrictHostKeyChecking=yes"]
    return subprocess.run(
        [*_DEPLOY, *arguments, *connection, *known_hosts],
        env={**os.environ, "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=3 * SLOW_S, check=False,
    )  # fmt: skip


def deployed(server: SshServer, *arguments: str | Path) -> dict[str, Any]:
    result = edgeexit_deploy(server, *arguments)
    assert result.returncode == 0, result.stderr[-4000:]
    return json.loads(result.stdout)


def call_endpoint(port: int, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v2/models/{path}", data=data, headers=headers)
    with urllib.request.urlopen(request, timeout=SLOW_S) as reply:  # noqa: S310 - the device's endpoint
        return json.load(reply)


def with_wrong_golden_samples(bundle: Bundle, folder: Path) -> Path:
    """Write a bundle with valid digests whose stages do not produce the logits of its golden samples."""
    golden = bundle.golden()
    with bundle_folder(folder) as made:
        for name in bundle.manifest.files:
            shutil.copy(bundle.path / name, made / name)
        write_golden(
            made, GoldenSamples(inputs=golden.inputs, exits={name: -logits for name, logits in golden.exits.items()})
        )
        write_manifest(made, msgspec.structs.replace(bundle.manifest, files={}))
    return folder


def test_releases_replace_each_other_and_a_broken_one_is_rolled_back(
    server: SshServer, machine: Machine, bundle: Bundle, images: np.ndarray, wheel: Path, wheelhouse: Path,
    config: Path, port: int, tmp_path: Path,
) -> None:  # fmt: skip
    assert server.run("uname", "-m").strip() == "aarch64"
    packages = ["--wheel", wheel, "--wheelhouse", wheelhouse]
    first = deployed(server, bundle.path, server.destination, "--config", config, *packages)
    assert (first["outcome"], first["service"], first["user"]) == ("healthy", "process", "edge")
    assert call_endpoint(port, "ThreeExits")["versions"] == [bundle.digest]
    image = {"name": "image", "shape": [8, 3, 16, 16], "datatype": "FP32", "data": images[:8].ravel().tolist()}
    reply = call_endpoint(port, "ThreeExits/infer", {"inputs": [image]})
    outputs = next(output for output in reply["outputs"] if output["name"] == "outputs")
    expected = bundle.golden().exits["exit2"]  # without a policy all samples run to full depth
    np.testing.assert_allclose(np.reshape(outputs["data"], outputs["shape"]), expected, atol=1e-4, rtol=1e-4)

    other = make_bundle(tmp_path / "other", seed=3, target="arm64-cpu")
    second = deployed(server, other.path, server.destination, *packages)
    assert (second["replaces"], second["environment"]) == (first["release"], "reused")
    assert call_endpoint(port, "tiny")["versions"] == [other.digest]

    broken = with_wrong_golden_samples(other, tmp_path / "broken")
    failed = edgeexit_deploy(server, broken, server.destination, *packages)
    assert failed.returncode == 2, failed.stderr[-4000:]
    assert f"rolled back to {second['release']}, which serves again" in failed.stderr
    assert "golden" in failed.stderr
    assert call_endpoint(port, "tiny")["versions"] == [other.digest]

    rollback = deployed(server, "rollback", server.destination)
    assert (rollback["release"], rollback["replaces"]) == (first["release"], second["release"])
    assert call_endpoint(port, "ThreeExits")["versions"] == [bundle.digest]
    assert machine.host_path("/home/edge/edgeexit/current").readlink() == Path("releases") / first["release"]
