"""Fuzzes the decoders of everything that comes from outside: no exception but the named ones, bounded time and memory.

    python scripts/fuzz [--runs N] [--target NAME] [--seed S] [--engine mutation|atheris]
    python scripts/fuzz --only intake [--count N] [--seed S] [--database URL]

The second form stores hostile messages through the whole intake of the calibrator, see `intake.py`.

The seeds are the golden messages of docs/protocol. `mutation` needs nothing and is the same for the same seed.
`atheris` (https://github.com/google/atheris) is guided by the coverage of the Python code; install it in an environment
of its own together with edgeexit. The exit code is 1 if a decoder fails; the input is printed.
"""

import argparse
import inspect
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from intake import fuzz_intake
from mutation import mutate

from targets import INTAKE, TARGETS, Target

_MAX_S = 2.0
_MEMORY_BYTES = 4 << 30


class FuzzError(Exception):
    """A decoder took too long."""


def main() -> int:
    """Fuzz the chosen targets; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=10_000, metavar="N", help="inputs per target; default: %(default)s")
    parser.add_argument("--target", action="append", choices=TARGETS, help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default: %(default)s")
    parser.add_argument("--engine", choices=("mutation", "atheris"), default="mutation", help="default: %(default)s")
    parser.add_argument("--only", choices=("intake",), help="store messages instead of decoding inputs")
    parser.add_argument("--count", type=int, default=10_000, metavar="N", help="hostile messages; default: %(default)s")
    parser.add_argument("--database", metavar="URL", help="an empty database; default: a new SQLite file")
    options = parser.parse_args()
    if options.only == "intake":
        return 0 if fuzz_intake(options.count, **INTAKE, seed=options.seed, url=options.database) else 1
    if options.engine == "mutation":  # atheris has its own limit
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    names = options.target or list(TARGETS)
    if options.engine == "atheris":
        return _with_atheris(names, options)
    failed = [name for name in names if not _fuzz(name, TARGETS[name], options.runs, options.seed)]
    print(f"{len(names)} targets, {options.runs:,} inputs each, {len(failed)} failed, peak {_peak_mb()} MB")
    return 1 if failed else 0


def run_input(target: Target, data: bytes) -> tuple[bool, float]:
    """Decode one input; return whether it is valid, and the seconds. Raises what is not a named error, or FuzzError."""
    started = time.process_time()  # not what other programs take
    try:
        target.run(data)
    except target.errors:
        valid = False
    else:
        valid = True
    seconds = time.process_time() - started
    if seconds > _MAX_S:
        raise FuzzError(f"{seconds:.1f} s for {len(data)} bytes")
    return valid, seconds


def _fuzz(name: str, target: Target, runs: int, seed: int) -> bool:
    """Fuzz one target by random changes; return whether it stood."""
    generator = random.Random(f"{seed} {name}")  # noqa: S311 - the same inputs for the same seed
    accepted, slowest_s, started = 0, 0.0, time.perf_counter()
    for _ in range(runs):
        data = mutate(generator.choice(target.seeds), generator, target.seeds)
        try:
            valid, seconds = run_input(target, data)
        except Exception as error:  # noqa: BLE001 - that is what fuzzing looks for
            print(f"{name}: {type(error).__name__}: {error}\n  input: {data[:2000]!r}", flush=True)
            return False
        accepted += valid
        slowest_s = max(slowest_s, seconds)
    per_s = runs / (time.perf_counter() - started)
    print(
        f"{name:22} {runs:9,} inputs, {accepted:9,} valid, slowest {slowest_s * 1e3:7.1f} ms, {per_s:7,.0f}/s",
        flush=True,
    )
    return True


def _peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _with_atheris(names: list[str], options: argparse.Namespace) -> int:
    """Fuzz with atheris, which ends its process; so each target has a process of its own."""
    if len(names) > 1:
        command = [sys.executable, *sys.argv[:1], "--engine", "atheris", "--runs", str(options.runs)]
        command += ["--seed", str(options.seed)]
        return max(subprocess.run([*command, "--target", name], check=False).returncode for name in names)  # noqa: S603
    import atheris  # noqa: PLC0415 - optional

    target = TARGETS[names[0]]
    generator = random.Random(options.seed)  # noqa: S311
    for module in [module for name, module in sys.modules.items() if name.split(".", maxsplit=1)[0] == "edgeexit"]:
        for function in vars(module).values():
            if inspect.isfunction(function):
                atheris.instrument_func(function)
    corpus = Path(tempfile.mkdtemp(prefix="edgeexit-corpus-"))
    for number, seed in enumerate(target.seeds):
        (corpus / str(number)).write_bytes(seed)
    arguments = [f"-runs={options.runs}", f"-seed={options.seed + 1}", "-timeout=5", "-rss_limit_mb=4096"]
    atheris.Setup(
        ["fuzz", *arguments, "-max_len=65536", "-verbosity=0", "-print_final_stats=1", str(corpus)],
        lambda data: run_input(target, data),
        custom_mutator=lambda data, size, _seed: mutate(data, generator, target.seeds)[:size],
    )
    print(f"{names[0]}: {options.runs:,} inputs with atheris", flush=True)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
