"""Compares how rules for recalibration hold a promised risk while the data drift, where the truth is known.

    python scripts/bench/drift.py [--quick] [--worlds synthetic digits] [--cache FOLDER] [--runs N] [--json]
    python scripts/bench/drift.py --worlds cifar --cifar FILE.npz --weights FILE.th [--cache FOLDER] [--runs N]
    python scripts/bench/drift.py --fleets 1000 [--forger none|agrees|differs|alternates] [--processes N]
        [--results FILE.jsonl] [--quiet-weeks 200]

The samples of each population are drawn with replacement, so the true risk and cost of a policy are exact means over
the population. The oracle knows the population and has the cheapest thresholds whose true risk is at most 5 %.

Columns, means over the runs unless stated otherwise:

- promise held: fraction of the runs in which no policy in force exceeds the risk outside [change, alarm]. Without a
  change that makes the policy in force exceed the risk, it must hold all the time. For the slow drift and the recurring
  one it is left out, because there the data never stay the same long enough.
- time held: fraction of all audits at which the true risk of the policy in force is at most 5 %.
- cost: mean cost of the policy in force relative to the oracle's, over all audits.
- alarm: audits from the change to the next alarm (median; "-": no alarm in most runs).
- recovered: audits from the change until the true risk of the policy in force is at most 5 % for the first time after
  it has exceeded that (median).
- cost after 500, 2,000: cost relative to the oracle's, so many audits after the change.
- false alarms: alarms per run while the policy in force does not exceed the risk.

With `--fleets`, the guarantee of many fleets is simulated, whose data change often. It shows how often the promise is
broken between two changes. With `--quiet-weeks`, their data never change: every alarm is a false one, unless a policy
in force exceeds the risk.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import starmap
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from drift_pools import Truth, World, digits_world, synthetic_world
from drift_rules import DELTA, RISK, RULES
from edgeexit_calibration.recalibrate.audits import Audits
from edgeexit_calibration.recalibrate.guarantee_rules import GuaranteeRules
from fleets import simulate_fleet, simulate_fleets, summary
from known_risk import COSTS

from edgeexit.fitting import MaxRisk, ReadoutDataset, fit_thresholds
from edgeexit.npz import save_arrays
from edgeexit.policies import Policy

Points = list[tuple[Truth, ...]]

_STEP: Final = 50
"""Audits that arrive between two calls of a rule."""
_CHANGE: Final = 1500
"""Audits before the change."""
_FIT_SAMPLES: Final = 1000
_DEVICES: Final = 20
_FLEET_GAIN: Final = 0.005
"""Smaller than the default, so that the policies of the simulated fleets change more often."""


class Drift(NamedTuple):
    """How the data change over time."""

    weight: Callable[[int], float]
    """Number of audits -> fraction of the samples of the second population."""
    pool: str = "hard"
    """The second population; the first one is "easy"."""
    devices: tuple[int, ...] | None = None
    """The devices whose data change; None: all."""
    forgers: int = 0
    """Number of devices that send audits in which every exit agrees."""
    total_devices: int = _DEVICES
    steady: bool = True
    """Whether the data are the same before the change, and the same after it."""


def _after_change(audits: int) -> float:
    return float(audits >= _CHANGE)


DRIFTS: Final = {
    "sudden": Drift(_after_change),
    "slow": Drift(lambda audits: min(max((audits - _CHANGE) / 2000, 0), 1), steady=False),
    "recurring": Drift(lambda audits: float(audits // 750 % 2), steady=False),
    "labels": Drift(_after_change, pool="shifted"),
    "sensors of a tenth": Drift(_after_change, pool="broken", devices=(0, 1)),
    "new board of half": Drift(_after_change, pool="board", devices=tuple(range(_DEVICES // 2))),
    "1 % forge": Drift(_after_change, forgers=1, total_devices=100),
    "5 % forge": Drift(_after_change, forgers=1),
    "quiet": Drift(lambda _: 0.0),
}


class Outcome(NamedTuple):
    """What one rule did in one run; None: it did not happen, or there was no change."""

    kept: bool
    time_held: float
    cost: float
    alarm: int | None
    recovered: int | None
    cost_500: float | None
    cost_2000: float | None
    false_alarms: int


def simulate(
    world: World, drift: Drift, points: Points, policy: Policy, rule_name: str, *, audits: int, seed: int
) -> Outcome:
    """Return what a rule did on `audits` audits; `points` are those of the oracle."""
    random = np.random.default_rng(seed)
    rule = RULES[rule_name](policy, world.costs)
    affected = len(drift.devices or range(_DEVICES)) / _DEVICES
    risks, costs, oracles, alarms = [], [], [], [0]
    known: dict[Any, Any] = {}
    for done in range(0, audits, _STEP):
        weight = drift.weight(done) * affected
        easy, other = (known.setdefault((rule.policy, pool), None) for pool in ("easy", drift.pool))
        if easy is None or other is None:
            for pool in ("easy", drift.pool):
                known[rule.policy, pool] = world.truth(rule.policy, pool)
            easy, other = known[rule.policy, "easy"], known[rule.policy, drift.pool]
        risks.append((1 - weight) * easy.risk + weight * other.risk)
        costs.append((1 - weight) * easy.cost + weight * other.cost)
        if ("oracle", weight) not in known:
            known["oracle", weight] = min(
                (1 - weight) * a.cost + weight * b.cost
                for a, b in points
                if (1 - weight) * a.risk + weight * b.risk <= RISK
            )
        oracles.append(known["oracle", weight])
        rule.observe(_arrivals(world, drift, done, random))
        alarms.append(len(rule.alarms))
    return _outcome(drift, np.array(risks), np.array(costs) / np.array(oracles), np.diff(alarms), rule.alarms)


def _arrivals(world: World, drift: Drift, done: int, random: np.random.Generator) -> Audits:
    devices = random.integers(0, drift.total_devices, _STEP)
    changed = random.random(_STEP) < drift.weight(done)
    if drift.devices is not None:
        changed &= np.isin(devices, drift.devices)
    easy, other = world.pools["easy"], world.pools[drift.pool]
    readouts = np.where(
        changed[:, None, None],
        other[random.integers(0, len(other), _STEP)],
        easy[random.integers(0, len(easy), _STEP)],
    )
    forged = devices >= drift.total_devices - drift.forgers
    readouts[forged] = np.array([0, 1, 0, 0], dtype=np.float32)
    return Audits(np.arange(done + 1, done + _STEP + 1), devices, readouts)


def _outcome(
    drift: Drift,
    risks: npt.NDArray[np.float64],
    costs: npt.NDArray[np.float64],
    alarms: npt.NDArray[np.int64],
    positions: list[int],
) -> Outcome:
    """Return the outcome from the true risk and relative cost [steps] of the policy in force at the start of steps."""
    exceeds = risks > RISK
    changes = bool(drift.weight(10**9) or not drift.steady)
    after = _CHANGE // _STEP
    excused = np.zeros(len(risks), dtype=np.bool_)
    alarm = next((position - _CHANGE for position in positions if position > _CHANGE), None) if changes else None
    if changes:
        excused[after : after + 1 + (len(risks) if alarm is None else alarm // _STEP)] = True
    broken = np.flatnonzero(exceeds[after:]) if changes else np.array([])
    recovered = None
    if len(broken):
        held = np.flatnonzero(~exceeds[after + broken[0] :])
        recovered = int(held[0] + broken[0]) * _STEP if len(held) else None
    return Outcome(
        kept=not (exceeds & ~excused).any(),
        time_held=float(1 - exceeds.mean()),
        cost=float(costs.mean()),
        alarm=alarm,
        recovered=recovered,
        cost_500=_at(costs, after + 500 // _STEP) if changes else None,
        cost_2000=_at(costs, after + 2000 // _STEP) if changes else None,
        false_alarms=int(alarms[~exceeds].sum()),
    )


def _at(values: npt.NDArray[np.float64], place: int) -> float | None:
    return float(values[place]) if place < len(values) else None


def run(
    seed: int, *, world: World, drift_name: str, points: Points, audits: int, rules: tuple[str, ...]
) -> list[Outcome]:
    """Return the outcome of each rule in one run; all begin with the same policy and read the same audits."""
    random = np.random.default_rng(seed)
    easy = world.pools["easy"]
    samples = easy[random.integers(0, len(easy), _FIT_SAMPLES)]
    dataset = ReadoutDataset(readouts=samples, costs=world.costs, temperatures=world.unfitted.temperatures)
    policy = fit_thresholds(world.unfitted, dataset, MaxRisk(risk=RISK, delta=DELTA)).policy
    drift = DRIFTS[drift_name]
    return [simulate(world, drift, points, policy, name, audits=audits, seed=seed) for name in rules]


def compare(
    world: World, *, runs: int, audits: int, quiet: int, pool: ProcessPoolExecutor
) -> Iterator[list[dict[str, Any]]]:
    """Yield a row per rule for each drift."""
    for drift_name, drift in DRIFTS.items():
        length = audits if drift_name != "quiet" else quiet
        points = world.oracle_points(("easy", drift.pool))
        one = partial(run, world=world, drift_name=drift_name, points=points, audits=length, rules=tuple(RULES))
        found = list(pool.map(one, range(1, runs + 1)))
        yield [
            {"world": world.name, "drift": drift_name, "rule": name, **_summary(outcomes, drift)}
            for name, outcomes in zip(RULES, zip(*found, strict=True), strict=True)
        ]


def _summary(outcomes: tuple[Outcome, ...], drift: Drift) -> dict[str, Any]:
    def mean(name: str) -> float | None:
        values = [getattr(one, name) for one in outcomes if getattr(one, name) is not None]
        return float(np.mean(values)) if values else None

    def median(name: str) -> float | None:
        values = [np.inf if getattr(one, name) is None else getattr(one, name) for one in outcomes]
        return float(np.median(values)) if np.isfinite(np.median(values)) else None

    return {
        "promise held": mean("kept") if drift.steady else None,
        "time held": mean("time_held"),
        "cost": mean("cost"),
        "alarm": median("alarm"),
        "recovered": median("recovered"),
        "cost after 500": mean("cost_500"),
        "cost after 2,000": mean("cost_2000"),
        "false alarms": mean("false_alarms"),
    }


def _lines(rows: list[dict[str, Any]], *, heading: bool) -> str:
    """Return rows of a table in Markdown."""
    columns = [name for name in rows[0] if name != "world"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"] if heading else []
    lines += ["| " + " | ".join(starmap(_cell, ((name, row[name]) for name in columns))) + " |" for row in rows]
    return "\n".join(lines)


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if name in {"promise held", "time held"}:
        return f"{100 * value:.0f} %"
    return f"{value:,.0f}" if name in {"alarm", "recovered"} else f"{value:.2f}"


def fleets(arguments: argparse.Namespace, pool: ProcessPoolExecutor) -> dict[str, Any]:
    """Return how often the promise was broken in simulated fleets."""
    forged = arguments.forger != "none"
    rules = GuaranteeRules(
        risk=RISK,
        delta=DELTA,
        costs=COSTS,
        tolerated_devices=int(forged),
        tolerated_in_alarms=int(forged),
        min_gain=_FLEET_GAIN,
    )
    quiet, changes, audits = arguments.quiet_weeks, arguments.changes, arguments.audits
    if quiet:
        changes, audits = 1, quiet * arguments.weekly_audits
    one = partial(simulate_fleet, changes=changes, audits=audits, forger=arguments.forger, rules=rules)
    found = simulate_fleets(one, arguments.fleets, results=arguments.results, spread=pool.map)
    per_week = {"false alarms per week": sum(o.false_alarms for o in found) / (quiet * len(found))} if quiet else {}
    return {"forger": arguments.forger, **summary(found, delta=DELTA), **per_week}


def _worlds(arguments: argparse.Namespace) -> Iterator[World]:
    quick, folder = arguments.quick, arguments.cache
    makers: dict[str, Callable[[], World]] = {
        "synthetic": lambda: synthetic_world(5_000 if quick else 20_000),
        "digits": lambda: digits_world(epochs=12 if quick else 20, copies=1 if quick else 5),
        "cifar": lambda: _cifar(arguments),
    }
    for name in arguments.worlds:
        file = None if folder is None or name == "synthetic" else folder / f"{name}.npz"
        if file is not None and file.exists():
            with np.load(file, allow_pickle=False) as stored:
                arrays = dict(stored)
            yield World(name, tuple(arrays.pop("costs").tolist()), arrays)
            continue
        world = makers[name]()
        if file is not None:
            folder.mkdir(parents=True, exist_ok=True)
            save_arrays(file, {"costs": np.array(world.costs), **world.pools})
        yield world


def _cifar(arguments: argparse.Namespace) -> World:
    from cifar_pools import cifar_world  # noqa: PLC0415 - torch, which the other worlds do not need

    if arguments.cifar is None or arguments.weights is None:
        message = "the world cifar needs --cifar FILE.npz and --weights FILE.th, or --cache FOLDER with its cifar.npz"
        raise SystemExit(message)
    return cifar_world(arguments.cifar, arguments.weights, samples=1000 if arguments.quick else 4000)


def main() -> None:
    """Run the benchmark and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few and short runs, to see that everything works")
    parser.add_argument(
        "--worlds", nargs="+", choices=("synthetic", "digits", "cifar"), default=["synthetic", "digits"]
    )
    parser.add_argument("--cache", type=Path, help="folder for the readouts of digits and cifar")
    parser.add_argument("--cifar", type=Path, help="CIFAR-10 as JPEG files, .npz; see precision.py")
    parser.add_argument("--weights", type=Path, help="public ResNet-56 weights, .th")
    parser.add_argument("--runs", type=int, help="runs per drift; default 40, quick: 2")
    parser.add_argument("--fleets", type=int, help="simulate the guarantee of so many fleets instead")
    parser.add_argument("--forger", choices=("none", "agrees", "differs", "alternates"), default="none")
    parser.add_argument("--results", type=Path, help="file for each fleet that is done; continued if it exists")
    parser.add_argument("--changes", type=int, default=48, help="changes of the data of each fleet")
    parser.add_argument("--audits", type=int, default=750, help="audits between two changes of a fleet")
    parser.add_argument("--quiet-weeks", type=int, default=0, help="weeks without a change, instead of --changes")
    parser.add_argument("--weekly-audits", type=int, default=1000, help="audits of a fleet in a quiet week")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with ProcessPoolExecutor(arguments.processes, get_context("fork")) as pool:
        if arguments.fleets:
            print(json.dumps(fleets(arguments, pool), indent=2))
            return
        runs = arguments.runs or (2 if arguments.quick else 40)
        audits, quiet = (3000, 3000) if arguments.quick else (5000, 20_000)
        for world in _worlds(arguments):
            if not arguments.json:
                print(f"\n{world.name}\n")
            for number, rows in enumerate(compare(world, runs=runs, audits=audits, quiet=quiet, pool=pool)):
                text = "\n".join(map(json.dumps, rows)) if arguments.json else _lines(rows, heading=number == 0)
                print(text, flush=True)


if __name__ == "__main__":
    main()
