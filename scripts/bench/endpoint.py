"""Measures the agent's endpoint against MLServer, both with one stage of the same small bundle, in one run.

    python scripts/bench/endpoint.py --mlserver-python FOLDER/bin/python [--checkout NAME=FOLDER]... [--json]

Needs Linux, `wrk` (a package of the distribution), and MLServer in a virtual environment of its own:

    python3 -m venv FOLDER && FOLDER/bin/pip install 'mlserver==1.7.*' onnxruntime

All servers run during the whole benchmark, and are loaded in turn: one round loads each of them once in each way, in
rotating order. The rows are medians over the rounds. The ratios compare a row with MLServer's row of the same client
and the same number of connections, in the same round, with 95 % intervals over resamplings of the rounds. The second
table compares the Unix domain socket with TCP in the same way.

- **Work.** A policy lets every sample exit at stage 0, so the agent runs the stage that MLServer runs: the same file,
  in an ONNX Runtime session with the same options and one thread. All clients send the same JSON, one image. The agent
  returns its five outputs, MLServer the logits alone. The logits are compared before the measurement.
- **Servers.** `edgeexit agent` with its default settings, which audit 1 % of the samples (`--audits`), and without a
  broker. MLServer with `parallel_workers` 0, so that it runs the model in its own process, and without metrics, debug
  output and access log.
- **Clients.** `wrk` with one thread. It cannot use Unix domain sockets, so a second client, a loop over sockets in
  Python, loads the servers over both kinds in the same way. It takes more time per request than `wrk`. Every connection
  sends its next request when it has received the response. After a pause of the machine, `wrk` adds the latencies of
  the requests that it would have sent meanwhile; the second client does not, so its p99 is less sensitive to pauses.
- **Processors.** The servers run on one processor and the clients on another, unless `--unpinned` is given.

`--checkout` measures other checkouts of this repository, e.g. one of an earlier commit (`git clone`), with this Python.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy is imported

import argparse
import contextlib
import functools
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from endpoint_load import Load, sockets, wrk
from endpoint_servers import MLSERVER, Server, agent, compile_network, has_socket, infer, mlserver
from turns import Ratio, ratio_of

_CLIENTS: Final = (1, 8)
_WRK, _TCP, _UNIX = "wrk", "TCP sockets", "Unix sockets"
_HEADINGS: Final = ("requests/s", "p50 ms", "p99 ms")
_TOLERANCE: Final = 1e-5
_ROOT: Final = Path(__file__).resolve().parents[2]


class Variant(NamedTuple):
    """A server, and a way to load it."""

    server: str
    client: str
    """`_WRK`, `_TCP` or `_UNIX`."""
    connections: int


class Row(NamedTuple):
    """Medians over the rounds, with the extremes, and ratios to MLServer under the same load."""

    variant: Variant
    median: Load
    lowest: Load
    highest: Load
    to_mlserver: Mapping[str, Ratio] | None
    """Field of `Load` -> ratio to MLServer over TCP; None for MLServer itself."""
    to_tcp: Mapping[str, Ratio] | None
    """For Unix sockets: field of `Load` -> ratio to the same server over TCP."""


def measure(
    mlserver_python: Path,
    checkouts: Mapping[str, Path],
    *,
    rounds: int,
    seconds: float,
    size: int,
    audits: float,
    pinned: bool,
) -> list[Row]:
    """Start all servers, load them in turn, and return one row per variant."""
    server_cpu, client_cpu = _processors() if pinned else (None, None)
    body = _request(size)
    with contextlib.ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
        servers, bundle = [], folder
        for number, (name, checkout) in enumerate(checkouts.items()):
            home = folder / str(number)
            home.mkdir()
            bundle = compile_network(checkout, home / "bundle", size)
            for unix in (False, True) if has_socket(checkout) else (False,):
                server = agent(name, checkout, bundle, home / f"unix-{unix}", audits=audits, unix=unix, cpus=server_cpu)
                servers.append(running.enter_context(server))
        servers.append(running.enter_context(mlserver(mlserver_python, bundle, folder / "mlserver", cpus=server_cpu)))
        _check_logits(servers, body)
        if client_cpu is not None:
            os.sched_setaffinity(0, {int(client_cpu)})
        loads = _variants(servers, body, seconds=seconds, cpus=client_cpu)
        return _rows(_in_turn(loads, rounds))


def _variants(
    servers: Sequence[Server], body: bytes, *, seconds: float, cpus: str | None
) -> dict[Variant, Callable[[], Load]]:
    loads: dict[Variant, Callable[[], Load]] = {}
    for clients in _CLIENTS:
        for server in servers:
            if not isinstance(server.address, Path):
                loads[Variant(server.name, _WRK, clients)] = functools.partial(
                    wrk, server, body, clients=clients, seconds=seconds, cpus=cpus
                )
        for server in servers:
            kind = _UNIX if isinstance(server.address, Path) else _TCP
            loads[Variant(server.name, kind, clients)] = functools.partial(
                sockets, server, body, clients=clients, seconds=seconds
            )
    return loads


def _in_turn(loads: Mapping[Variant, Callable[[], Load]], rounds: int) -> dict[Variant, list[Load]]:
    """Run every load once per round, in rotating order; the results of a first round, the warm-up, are dropped."""
    variants = list(loads)
    results: dict[Variant, list[Load]] = {variant: [] for variant in variants}
    for number in range(-1, rounds):
        first = number % len(variants)
        for variant in variants[first:] + variants[:first]:
            load = loads[variant]()
            if number >= 0:
                results[variant].append(load)
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return results


def _rows(results: Mapping[Variant, Sequence[Load]]) -> list[Row]:
    rows = []
    for variant, loads in results.items():
        mlserver_variant = Variant(MLSERVER, _WRK if variant.client == _WRK else _TCP, variant.connections)
        median, lowest, highest = (
            Load(*map(float, function(loads, axis=0))) for function in (np.median, np.min, np.max)
        )
        rows.append(
            Row(
                variant,
                median,
                lowest,
                highest,
                to_mlserver=None if variant.server == MLSERVER else _ratios(loads, results[mlserver_variant]),
                to_tcp=_ratios(loads, results[variant._replace(client=_TCP)]) if variant.client == _UNIX else None,
            )
        )
    return rows


def _ratios(loads: Sequence[Load], others: Sequence[Load]) -> dict[str, Ratio]:
    by_round = np.array(loads) / np.array(others)
    return {field: ratio_of(by_round[:, column]) for column, field in enumerate(Load._fields)}


def _check_logits(servers: Sequence[Server], body: bytes) -> None:
    """Raise SystemExit if two servers return different logits."""
    expected = infer(servers[-1], body)
    for server in servers:
        if not np.allclose(infer(server, body), expected, atol=_TOLERANCE):
            raise SystemExit(f"{server.name} and {servers[-1].name} return different logits for the same request")


def _request(size: int) -> bytes:
    image = np.random.default_rng(0).random(size * size).round(6).tolist()
    tensor = {"name": "image", "shape": [1, 1, size, size], "datatype": "FP32", "data": image}
    return json.dumps({"inputs": [tensor]}).encode()


def _processors() -> tuple[str, str]:
    available = sorted(os.sched_getaffinity(0))
    if len(available) < 2:  # noqa: PLR2004 - one each
        raise SystemExit("servers and clients need two processors; pass --unpinned to share one")
    return str(available[0]), str(available[1])


def _print_tables(rows: Sequence[Row]) -> None:
    ordered = sorted(rows, key=lambda row: (row.variant.connections, row.variant.client != _WRK))
    _print_line(
        "server", "client", "connections", *_HEADINGS, *(f"{name} / MLServer" for name in ("req/s", "p50", "p99"))
    )
    _print_line(*["---"] * 9)
    for row in ordered:
        values = zip(row.median, row.lowest, row.highest, strict=True)
        _print_line(*map(str, row.variant), *(_cell(Ratio(*three)) for three in values), *_cells(row.to_mlserver))
    if any(row.to_tcp for row in ordered):
        print()
        _print_line("server", "connections", *(f"{name}, Unix / TCP" for name in ("req/s", "p50", "p99")))
        _print_line(*["---"] * 5)
        for row in ordered:
            if row.to_tcp is not None:
                _print_line(row.variant.server, str(row.variant.connections), *_cells(row.to_tcp))


def _print_line(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |")


def _cells(ratios: Mapping[str, Ratio] | None) -> list[str]:
    return [""] * len(_HEADINGS) if ratios is None else [_cell(ratio) for ratio in ratios.values()]


def _cell(value: Ratio) -> str:
    digits = 0 if value.value >= 100 else 2  # noqa: PLR2004 - requests per second have no decimals
    middle, low, high = (f"{number:,.{digits}f}" for number in value)
    return f"{middle} ({low} to {high})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mlserver-python", type=Path, required=True, help="Python with MLServer 1.7 and onnxruntime")
    parser.add_argument(
        "--checkout", action="append", default=[], metavar="NAME=FOLDER", help="default: edgeexit=this checkout"
    )
    parser.add_argument("--rounds", type=int, default=7, help="number of rounds; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds per load; default: %(default)s")
    parser.add_argument("--size", type=int, default=8, help="width and height of the image; default: %(default)s")
    parser.add_argument("--audits", type=float, default=0.01, help="audit_fraction of the agent; default: %(default)s")
    parser.add_argument("--unpinned", action="store_true", help="let servers and clients run on all processors")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    for program in ("wrk", "taskset", str(options.mlserver_python.with_name("mlserver"))):
        if shutil.which(program) is None:
            raise SystemExit(f"'{program}' is not installed; see --help")
    checkouts = dict(text.split("=", 1) for text in options.checkout) or {"edgeexit": _ROOT}
    rows = measure(
        options.mlserver_python.absolute(),
        {name: Path(folder).resolve() for name, folder in checkouts.items()},
        rounds=options.rounds,
        seconds=options.seconds,
        size=options.size,
        audits=options.audits,
        pinned=not options.unpinned,
    )
    if options.json:
        print(json.dumps([_as_json(row) for row in rows], indent=2))
    else:
        _print_tables(rows)


def _as_json(row: Row) -> dict[str, object]:
    ratios = {
        name: None if found is None else {field: ratio._asdict() for field, ratio in found.items()}
        for name, found in (("to_mlserver", row.to_mlserver), ("to_tcp", row.to_tcp))
    }
    loads = {name: getattr(row, name)._asdict() for name in ("median", "lowest", "highest")}
    return {**row.variant._asdict(), **loads, **ratios}


if __name__ == "__main__":
    main()
