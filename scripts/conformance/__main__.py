"""Plays the calibrator against a running device client, and checks that it follows docs/protocol.md.

    python scripts/conformance --broker mqtt://127.0.0.1:1883 [--client COMMAND] [--core] [--json]
    python scripts/conformance --list

It prints how to start the client under test, waits for its first state, and prints a table of checks. The client
connects through a proxy on this machine, so that the test can cut its connection. The exit code is 1 if a check fails.
With --client, the test starts the client itself, with the settings in environment variables, and ends it.
"""

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import checks_delivery  # noqa: F401 - it registers its checks
import checks_downlink  # noqa: F401
import checks_keys  # noqa: F401
import checks_link  # noqa: F401
import checks_policy  # noqa: F401
import checks_rejection  # noqa: F401
from bench import CHECKS, Bench, Check, FailedError, SkippedError
from calibrator import Calibrator
from proxy import Proxy

from edgeexit.errors import EdgeExitError
from edgeexit.signing import generate_key, load_private_key
from edgeexit.wire import DeviceAddress, check_name

_PORT = 1883
_ORDER = (
    *("state", "session", "reports", "cumulative", "resend", "ack-of-another-start", "ack", "refusal"),
    *("refusal-not-final", "audits", "malformed", "oversized", "command", "command-replayed", "command-of-others"),
    *("policy", "policy-repeated", "policy-signature", "policy-lower-revision", "policy-same-revision"),
    *("policy-recipient", "policy-unknown", "policy-rollout", "heartbeat", "policy-of-device"),
    *("will", "reconnect", "mqtt-3.1.1", "qos", "key-set"),
)
"""The last ones cut the connection, and change the keys."""


class Outcome(NamedTuple):
    """The result of a check."""

    check: str
    result: str
    """pass, fail or skipped."""
    reason: str
    seconds: float


def main() -> int:
    """Run the checks; return the exit code."""
    options = _parser().parse_args()
    if options.list:
        for check in map(CHECKS.__getitem__, _ORDER):
            print(f"{check.group:9} {check.name:22} {'core' if check.core else '    '}  {check.about}")
        return 0
    host, port = _endpoint(options.broker)
    with tempfile.TemporaryDirectory() as temporary:
        key = options.key or generate_key(Path(temporary) / "conformance.key").with_suffix(".key")
        address = DeviceAddress(*(check_name(what, getattr(options, what)) for what in ("fleet", "shard", "device")))
        proxy = Proxy((host, port), port=options.listen)
        calibrator = Calibrator((host, port), address, load_private_key(key))
        bench = Bench(
            calibrator, proxy, broker=(host, port), report_interval_s=options.report_interval, resend_s=options.resend
        )
        settings = _settings(options, proxy, Path(key).with_suffix(".pub"))
        client = None if options.client is None else _start(options.client, settings)
        try:
            if client is None:
                _instruct(settings)
            outcomes = list(_run(bench, options, client))
        finally:
            if client is not None:
                _end(client)
            calibrator.stop()
            proxy.stop()
    failed = [outcome for outcome in outcomes if outcome.result == "fail"]
    if options.json:
        print(json.dumps({"checks": [outcome._asdict() for outcome in outcomes], "failed": len(failed)}, indent=1))
    else:
        print(f"{len(outcomes)} checks, {len(failed)} failed, {sum(o.result == 'skipped' for o in outcomes)} skipped")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/conformance", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--broker", metavar="URL", default="mqtt://127.0.0.1:1883", help="default: %(default)s")
    parser.add_argument("--fleet", default="conformance", help="default: %(default)s")
    parser.add_argument("--shard", default="s0", help="default: %(default)s")
    parser.add_argument("--device", default="device-1", help="default: %(default)s")
    parser.add_argument("--key", type=Path, metavar="FILE", help="signs everything; default: a new key")
    parser.add_argument("--listen", type=int, default=0, metavar="PORT", help="port of the proxy; default: a free one")
    parser.add_argument(
        "--report-interval", type=float, default=2.0, metavar="S", help="of the client under test; default: %(default)s"
    )
    parser.add_argument("--resend", type=float, default=0.5, metavar="S", help="the same; default: %(default)s")
    parser.add_argument("--client", metavar="COMMAND", help="start the client under test with this command")
    parser.add_argument(
        "--wait", type=float, default=120.0, metavar="S", help="for the first state; default: %(default)s"
    )
    parser.add_argument("--core", action="store_true", help="only the checks that every client must pass")
    parser.add_argument("--only", metavar="CHECK", help="only this check, or the checks of this group (see --list)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--list", action="store_true", help="list the checks, and do nothing")
    return parser


def _endpoint(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    if parts.scheme != "mqtt" or not parts.hostname:
        sys.exit(f"--broker '{url}' must be mqtt://HOST[:PORT]; the proxy cannot read encrypted connections")
    return parts.hostname, parts.port or _PORT


def _settings(options: argparse.Namespace, proxy: Proxy, public_key: Path) -> dict[str, str]:
    return {
        "BROKER_HOST": "127.0.0.1",
        "BROKER_PORT": str(proxy.port),
        "FLEET": options.fleet,
        "SHARD": options.shard,
        "DEVICE": options.device,
        "TRUSTED_KEY": str(public_key),
        "REPORT_INTERVAL_S": f"{options.report_interval:g}",
        "RESEND_S": f"{options.resend:g}",
    }


def _instruct(settings: dict[str, str]) -> None:
    print(
        "Start the client under test with these settings. It must run inferences all the time, and audit all of them\n"
        "if it audits. Bundle, cohort and the number of exits are its own choice.\n",
        *(f"  {name}={value}" for name, value in settings.items()),
        "",
        sep="\n",
        file=sys.stderr,
        flush=True,
    )


def _start(command: str, settings: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - the user's own command
        shlex.split(command), env={**os.environ, **settings}, stdout=sys.stderr, start_new_session=True
    )


def _end(client: subprocess.Popen[bytes]) -> None:
    """End the client and the processes that it started."""
    with contextlib.suppress(ProcessLookupError):  # it may have ended by itself
        os.killpg(client.pid, signal.SIGTERM)
        try:
            client.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(client.pid, signal.SIGKILL)
    client.wait()


def _run(bench: Bench, options: argparse.Namespace, client: subprocess.Popen[bytes] | None) -> Iterator[Outcome]:
    waited = time.monotonic() + options.wait
    while bench.calibrator.state is None or not bench.calibrator.state.online:
        if client is not None and client.poll() is not None:
            sys.exit(f"the client ended with exit code {client.returncode}")
        if time.monotonic() > waited:
            sys.exit(f"no state with online true arrived within {options.wait:g} s")
        time.sleep(0.05)
    for check in map(CHECKS.__getitem__, _ORDER):
        if (options.core and not check.core) or options.only not in {None, check.group, check.name}:
            continue
        outcome = _outcome(check, bench)
        if not options.json:
            print(f"{outcome.result:7} {outcome.check:22} {outcome.reason}", flush=True)
        yield outcome


def _outcome(check: Check, bench: Bench) -> Outcome:
    started = time.monotonic()
    result, reason = "pass", ""
    try:
        reason = check.run(bench) or check.about
    except SkippedError as error:
        result, reason = "skipped", str(error)
    except (FailedError, EdgeExitError) as error:
        result, reason = "fail", str(error)
    except Exception as error:  # noqa: BLE001 - a defect of the test itself
        traceback.print_exc()
        result, reason = "fail", f"the check failed: {type(error).__name__}: {error}"
    return Outcome(check.name, result, " ".join(reason.split()), round(time.monotonic() - started, 2))


if __name__ == "__main__":
    sys.exit(main())
