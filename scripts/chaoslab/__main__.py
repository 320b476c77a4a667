"""Runs situations in which something fails, and prints one table of what was promised and what was counted."""

import argparse
import ctypes
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from edgeexit.console import print_json, print_table
from scripts.chaoslab.lab import Check, Lab
from scripts.chaoslab.processes import start_server
from scripts.chaoslab.situations import ALONE, SITUATIONS
from scripts.chaoslab.waiting import INTERRUPTED

_INTERRUPTED = 130
_QUIET_S = 10.0
_CLONE_NEWNS = 0x00020000  # <linux/sched.h>
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000  # <linux/mount.h>


def main() -> int:
    """Run the command; return 1 if a promise is broken."""
    options = _parse(list(SITUATIONS))
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell starts jobs in the background with SIGINT ignored
        signal.signal(number, _interrupt)
    _keep_mounts_private()
    start_server()
    names = options.only or list(SITUATIONS)
    together = [name for name in names if name not in ALONE]
    progress = _Progress(len(names))

    def run(name: str) -> list[Check]:
        return _run(Path(folder), name, options, progress)

    with tempfile.TemporaryDirectory(prefix="edgeexit-chaos-") as folder:
        pool = ThreadPoolExecutor(options.jobs)
        try:
            found = dict(zip(together, pool.map(run, together), strict=True))
            found |= {name: run(name) for name in names if name in ALONE}
        except KeyboardInterrupt:
            INTERRUPTED.set()
            print("\ninterrupted; ending what was started", file=sys.stderr)
            pool.shutdown(cancel_futures=True)
            return _INTERRUPTED
    checks = [check for name in names for check in found[name]]
    if options.json:
        print_json({"seed": options.seed, "long": options.long, "checks": checks})
    else:
        for check in checks:
            for note in check.notes if check.kept is False else ():
                print(f"{check.situation}: {note}", file=sys.stderr)
        form = "long" if options.long else "short"
        print_table(
            f"Chaos, {form} form, seed {options.seed}",
            ["situation", "what must hold", "counted", "verdict"],
            [[check.situation, check.promise, check.counted, _verdict(check.kept)] for check in checks],
        )
    return int(any(check.kept is False for check in checks))


def _run(folder: Path, name: str, options: argparse.Namespace, progress: "_Progress") -> list[Check]:
    """Run one situation; an error of it is a broken promise, and the others still run."""
    started = time.monotonic()
    progress.show(name, "starts")
    try:
        with Lab(folder, name=name, seed=options.seed, long=options.long, progress=partial(progress.show, name)) as lab:
            lab.keep = options.keep  # also if it raises
            found = SITUATIONS[name](lab)
            if all(check.kept is not False for check in found):
                lab.keep = None
    except InterruptedError:
        raise
    except Exception as error:  # noqa: BLE001 - see above
        traceback.print_exc()
        text = f"{type(error).__name__}: {error}"
        found = [Check(situation=name, promise="the situation runs to its end", counted=text, kept=False)]
    kinds = [_verdict(check.kept) for check in found]
    verdicts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    progress.end(name, f"{verdicts} after {time.monotonic() - started:.0f} s")
    return found


def _parse(names: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="seed of all random moments; default 1")
    parser.add_argument("--long", action="store_true", help="the numbers of docs/chaos.md; takes about half an hour")
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help=f"one of: {', '.join(names)}")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep logs and states of broken situations there")
    parser.add_argument("--jobs", type=int, default=3, help="situations that run at the same time; default 3")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser.parse_args()


def _keep_mounts_private() -> None:
    """Let the mounts of this process vanish with it, even after SIGKILL. Without root, nothing can be mounted."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None)
        if libc.unshare(_CLONE_NEWNS) == 0:
            libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)


class _Progress:
    """Prints what the running situations do: on a terminal in place, elsewhere at most every 10 s each."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._ended = 0
        self._shown: dict[str, float] = {}
        self._running: dict[str, str] = {}
        self._lock = threading.Lock()

    def show(self, name: str, text: str) -> None:
        """Show what a situation does now."""
        with self._lock:
            self._running[name] = text
            if sys.stderr.isatty():
                line = "; ".join(f"{one}: {now}" for one, now in self._running.items())
                print(f"\r\033[K[{self._ended}/{self._total}] {line}"[:160], end="", file=sys.stderr, flush=True)
            elif time.monotonic() - self._shown.get(name, -_QUIET_S) >= _QUIET_S:
                self._shown[name] = time.monotonic()
                print(f"[{self._ended}/{self._total}] {name}: {text}", file=sys.stderr, flush=True)

    def end(self, name: str, text: str) -> None:
        """Show how a situation has ended."""
        with self._lock:
            self._ended += 1
            self._running.pop(name, None)
            clear = "\r\033[K" if sys.stderr.isatty() else ""
            print(f"{clear}[{self._ended}/{self._total}] {name}: {text}", file=sys.stderr, flush=True)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _verdict(kept: bool | None) -> str:  # noqa: FBT001 - a column
    return {True: "kept", False: "BROKEN", None: "skipped"}[kept]


if __name__ == "__main__":
    sys.exit(main())
