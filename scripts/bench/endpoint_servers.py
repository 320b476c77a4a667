"""Starts the servers that the endpoint's benchmark compares: agents of one or several checkouts, and MLServer."""

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

MLSERVER: Final = "MLServer"
MODEL: Final = "model"
PATH: Final = f"/v2/models/{MODEL}/infer"
_START_S: Final = 60.0
_STOP_S: Final = 15.0
_FLEET: Final = "bench"
_BENCH: Final = Path(__file__).parent

_EXIT_AT_STAGE_0: Final = """
import sys
from pathlib import Path
from edgeexit.bundle import Bundle
from edgeexit.policies.confidence import Confidence
from edgeexit.policies.document import PolicyDocument
bundle = Bundle.open(Path(sys.argv[1]))
policy = Confidence(temperatures=(1.0, 1.0), thresholds=(0.0,))
bundle.write_policy(PolicyDocument(bundle=bundle.digest, revision=0, policy=policy))
"""
_HAS_SOCKET: Final = """
from edgeexit.agent.config import EndpointConfig
print(int("socket" in EndpointConfig.__struct_fields__))
"""


class Server(NamedTuple):
    """A running server; `address` is a port of 127.0.0.1, or the path of a Unix domain socket."""

    name: str
    address: int | Path

    def connect(self) -> socket.socket:
        """Return a new connection."""
        if isinstance(self.address, Path):
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(str(self.address))
            return connection
        connection = socket.create_connection(("127.0.0.1", self.address))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


def compile_network(checkout: Path, out: Path, size: int) -> Path:
    """Compile the small network for images [1, size, size] with the code of `checkout`; return the bundle.

    Its policy lets every sample exit at stage 0.
    """
    network = _BENCH / "endpoint_network.py"
    # A bundle is named for the file or function of its model, and the endpoint serves it under this name.
    source = out.parent / f"{MODEL}.py"
    shutil.copy(network, source)
    environment = _environment(checkout)
    command = ["compile", f"{source}:SmallNetwork", "--input", f"image:batch,1,{size},{size}", "--out", str(out)]
    # The current folder comes before PYTHONPATH, so it must not be another checkout.
    subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "edgeexit", *command], check=True, env=environment, cwd=out.parent, stdout=sys.stderr
    )
    subprocess.run(  # noqa: S603 - the program above
        [sys.executable, "-c", _EXIT_AT_STAGE_0, str(out)], check=True, env=environment, cwd=out.parent
    )
    return out


def has_socket(checkout: Path) -> bool:
    """Return True if the endpoint of a checkout can listen on a Unix domain socket."""
    command = [sys.executable, "-c", _HAS_SOCKET]
    environment, folder = _environment(checkout), checkout.resolve()
    done = subprocess.run(command, check=True, env=environment, cwd=folder, stdout=subprocess.PIPE)  # noqa: S603 - the program above
    return bool(int(done.stdout))


@contextlib.contextmanager
def agent(
    name: str, checkout: Path, bundle: Path, home: Path, *, audits: float, unix: bool, cpus: str | None
) -> Iterator[Server]:
    """Run `edgeexit agent` of a checkout while the block runs. Its broker is not reachable."""
    home.mkdir()
    address: int | Path = home / "endpoint.sock" if unix else _free_port()
    listen = f'tcp = false\nsocket = "{address}"' if unix else f"port = {address}"
    config = home / "agent.toml"
    config.write_text(
        f'fleet = "{_FLEET}"\nstate_dir = "state"\naudit_fraction = {audits}\n'
        f'[broker]\nurl = "mqtt://127.0.0.1:9"\n[endpoint]\n{listen}\n',
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "edgeexit", "agent", str(bundle), "--config", str(config)]
    with _running(Server(name, address), command, _environment(checkout), home, cpus) as server:
        yield server


@contextlib.contextmanager
def mlserver(python: Path, bundle: Path, home: Path, *, cpus: str | None) -> Iterator[Server]:
    """Run MLServer with stage 0 of a bundle while the block runs: one process, without metrics and debug output."""
    home.mkdir()
    ports = [_free_port() for _ in range(2)]
    stage = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["stages"][0]
    shutil.copy(_BENCH / "mlserver_stage.py", home)
    (home / "settings.json").write_text(
        json.dumps(
            {
                "parallel_workers": 0,
                "debug": False,
                "host": "127.0.0.1",
                "http_port": ports[0],
                "grpc_port": ports[1],
                "metrics_endpoint": None,
            }
        ),
        encoding="utf-8",
    )
    extra = {"output": stage["exit"]["name"], "temperature": "edgeexit.temperature"}
    (home / "model-settings.json").write_text(
        json.dumps(
            {
                "name": MODEL,
                "implementation": "mlserver_stage.StageModel",
                "parameters": {"uri": str(bundle / stage["file"]), "extra": extra},
            }
        ),
        encoding="utf-8",
    )
    command = [str(python.with_name("mlserver")), "start", str(home)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(home)}
    with _running(Server(MLSERVER, ports[0]), command, environment, home, cpus) as server:
        yield server


def infer(server: Server, body: bytes) -> list[float]:
    """Return the logits for a request. Raises OSError if the server does not respond, ValueError for an error of it."""
    connection = http.client.HTTPConnection("localhost")
    with contextlib.closing(server.connect()) as connection.sock:
        connection.request("POST", PATH, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = response.read()
    if response.status != http.client.OK:
        raise ValueError(f"{server.name} responds with {response.status}: {content.decode(errors='replace')[:300]}")
    outputs = {tensor["name"]: tensor["data"] for tensor in json.loads(content)["outputs"]}
    logits: list[float] = outputs["outputs"]
    return logits


@contextlib.contextmanager
def _running(
    server: Server, command: Sequence[str], environment: Mapping[str, str], home: Path, cpus: str | None
) -> Iterator[Server]:
    """Run a server while the block runs; yield it when it accepts connections. Raises SystemExit if it ends before."""
    pinned = command if cpus is None else ["taskset", "--cpu-list", cpus, *command]
    log = home / "log"
    with (
        log.open("wb") as file,
        subprocess.Popen(  # noqa: S603 - our own commands
            pinned, env=environment, cwd=home, stdout=file, stderr=file
        ) as process,
    ):
        try:
            deadline = time.monotonic() + _START_S
            while not _accepts(server):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{server.name} did not start:\n{log.read_text(encoding='utf-8')[-2000:]}")
                time.sleep(0.2)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _accepts(server: Server) -> bool:
    try:
        server.connect().close()
    except OSError:
        return False
    return True


def _environment(checkout: Path) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(checkout.resolve())}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
