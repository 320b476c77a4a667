"""Compares MQTT clients as consumers of reports: messages per second, of CPU time and of wall time.

    python scripts/bench/mqtt_clients.py [--rate 25000] [--seconds 3] [--rounds 3] [--clients NAME,NAME]

mosquitto, a load of reports (700 bytes, QoS 1) and one client share the processors. The clients take turns (A B C A B
C), and each round has new processes. A client that is not installed, or that has not this version of MQTT, is named as
skipped; install the others with `pip install aiomqtt gmqtt zmqtt ohmqtt awscrt mqtt5`. What a client does not take in
time is dropped by the broker; so is "messages per second of wall time" at most the rate of the load.
"""

import argparse
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mqtt_consumers import CLIENTS

_HERE: Final = Path(__file__).parent
_MOSQUITTO: Final = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence false
log_type none
set_tcp_nodelay true
max_inflight_messages 2000
max_queued_messages 10000
"""
_TIMEOUT_S: Final = 30.0


@contextmanager
def running(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process, and end it."""
    process = subprocess.Popen(command)  # noqa: S603 - commands of this file
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def broker() -> Iterator[int]:
    """Run mosquitto, and yield its port."""
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise SystemExit("mosquitto is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "mosquitto.conf"
        config.write_text(_MOSQUITTO.format(port=port))
        with running([program, "-c", str(config)]):
            for _ in range(200):
                with socket.socket() as probe:
                    if not probe.connect_ex(("127.0.0.1", port)):
                        break
                time.sleep(0.05)
            yield port


def measure(client: str, version: str, *, rate: float, seconds: float) -> dict[str, float] | str:
    """Return what one client achieved in new processes, or why it was skipped."""
    with broker() as port, running([sys.executable, str(_HERE / "mqtt_load.py"), str(port), str(rate)]):
        command = [sys.executable, str(_HERE / "mqtt_consumers.py"), client, str(port), version, str(seconds)]
        try:
            limit_s = _TIMEOUT_S + seconds
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)  # noqa: S603
        except subprocess.TimeoutExpired:
            return "no message within the time limit"
    if done.returncode:
        return done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}"
    row: dict[str, float] = json.loads(done.stdout)
    return row


def main() -> None:
    """Measure all clients in rounds, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=25_000, help="messages per second of the load")
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", default=",".join(CLIENTS), help="names, with commas")
    parser.add_argument("--versions", default="5,3.1.1")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    names = options.clients.split(",")
    unknown = [name for name in names if name not in CLIENTS]
    if unknown:
        raise SystemExit(f"unknown client '{unknown[0]}'; known are {', '.join(CLIENTS)}")
    results: dict[tuple[str, str], list[dict[str, float]]] = {}
    skipped: dict[tuple[str, str], str] = {}
    for _ in range(options.rounds):
        for version in options.versions.split(","):
            for name in names:
                if (name, version) in skipped:
                    continue
                row = measure(name, version, rate=options.rate, seconds=options.seconds)
                if isinstance(row, str):
                    skipped[name, version] = row
                    print(f"skipped: {name}, MQTT {version}: {row}", file=sys.stderr)
                else:
                    results.setdefault((name, version), []).append(row)
                    print(f"{name}, MQTT {version}: {row}", file=sys.stderr)
    if options.json:
        rows = [{"client": name, "version": version, "rounds": rows} for (name, version), rows in results.items()]
        print(json.dumps(rows))
    else:
        _print_table(results)


def _print_table(results: dict[tuple[str, str], list[dict[str, float]]]) -> None:
    print("| client | MQTT | messages per CPU second | lowest and highest | messages per wall second |")
    print("|---|---|---|---|---|")
    for (name, version), rows in results.items():
        per_cpu = [row["messages"] / row["cpu_s"] for row in rows]
        per_wall = statistics.median(row["messages"] / row["wall_s"] for row in rows)
        spread = f"{min(per_cpu):,.0f} to {max(per_cpu):,.0f}"
        print(f"| {name} | {version} | {statistics.median(per_cpu):,.0f} | {spread} | {per_wall:,.0f} |")


if __name__ == "__main__":
    main()
