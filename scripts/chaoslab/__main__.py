"""Runs situations in which something fails, and prints one table of what was promised and what was counted."""

import argparse
import contextlib
import ctypes
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from scripts.chaoslab.processes import start_server

_INTERRUPTED = 130
_CLONE_NEWNS = 0x00020000  # <linux/sched.h>
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000  # <linux/mount.h>


def main() -> int:
    """Run the command; return 1 if a promise is broken."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # before numpy is imported
    from edgeexit.console import print_json, print_table  # noqa: PLC0415 - after the environment is set
    from scripts.chaoslab.lab import Check, Lab  # noqa: PLC0415 - as above
    from scripts.chaoslab.situations import SITUATIONS  # noqa: PLC0415 - as above

    options = _parse(list(SITUATIONS))
    signal.signal(signal.SIGTERM, _interrupt)
    _keep_mounts_private()
    start_server()
    checks: list[Check] = []
    names = options.only or list(SITUATIONS)
    try:
        with tempfile.TemporaryDirectory(prefix="edgeexit-chaos-") as folder:
            for number, name in enumerate(names, start=1):
                started = time.monotonic()
                progress = _progress(f"[{number}/{len(names)}] {name}")
                progress("starts")
                try:
                    with Lab(Path(folder), name=name, seed=options.seed, long=options.long, progress=progress) as lab:
                        lab.keep = options.keep  # also if it raises
                        found = SITUATIONS[name](lab)
                        if all(check.kept is not False for check in found):
                            lab.keep = None
                except Exception as error:  # noqa: BLE001 - the other situations still run
                    traceback.print_exc()
                    text = f"{type(error).__name__}: {error}"
                    found = [Check(situation=name, promise="the situation runs to its end", counted=text, kept=False)]
                checks += found
                progress(
                    f"{_verdicts([check.kept for check in found])} after {time.monotonic() - started:.0f} s", end=True
                )
    except KeyboardInterrupt:
        print("interrupted; everything that was started has ended", file=sys.stderr)
        return _INTERRUPTED
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


def _parse(names: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="seed of all random moments; default 1")
    parser.add_argument("--long", action="store_true", help="the numbers of docs/chaos.md; takes about half an hour")
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help=f"one of: {', '.join(names)}")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep logs and states of broken situations there")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser.parse_args()


def _keep_mounts_private() -> None:
    """Let the mounts of this process vanish with it, even after SIGKILL. Without root, nothing can be mounted."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None)
        if libc.unshare(_CLONE_NEWNS) == 0:
            libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)


def _progress(prefix: str) -> Callable[..., None]:
    """Return a function that prints a line: on a terminal in place, elsewhere at most every 10 s."""
    last = [0.0]

    def show(text: str, *, end: bool = False) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[K{prefix}: {text}", end="\n" if end else "", file=sys.stderr, flush=True)
        elif end or time.monotonic() - last[0] > 10:  # noqa: PLR2004
            print(f"{prefix}: {text}", file=sys.stderr, flush=True)
            last[0] = time.monotonic()

    return show


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _verdict(kept: bool | None) -> str:  # noqa: FBT001 - a column
    return {True: "kept", False: "BROKEN", None: "skipped"}[kept]


def _verdicts(verdicts: list[bool | None]) -> str:
    kinds = [_verdict(kept) for kept in verdicts]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
