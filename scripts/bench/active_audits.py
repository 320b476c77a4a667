"""Compares audits of unsure samples, drawn more often than others, with uniform audits, where the truth is known.

    python scripts/bench/active_audits.py [--quick] [--worlds synthetic digits] [--cache FOLDER] [--runs N] [--json]

A sample is drawn with the lowest probability, or with a few times as much if it is unsure, by one of two rules:

- taken exit: what the exit shows that the sample took, so it is known before the audit. An early exit is unsure if its
  score is in the first quarter between threshold and score limit; the final one if its highest probability is below
  0.9.
- computed exits: as before for an early exit; or an earlier exit has another class with a probability of at least 0.6.

The tests get the weights of the samples (see `edgeexit.fitting.path_test`). Paths and costs are those of samples that
are repeated in inverse proportion to their probability. Paths are chosen from 64, 256 and 1,024 audits, as the
calibrator does, and a policy that saves 3 % is put in force. Populations and oracle are those of `drift.py`.

Columns, means over the runs unless stated otherwise:

- unsure: fraction of the samples that are unsure at full depth.
- first bolder: audits from full depth to the first bolder policy (median).
- cost after 250 ... 2,000: true cost of the policy in force relative to the oracle's, so many audits after full depth.
- saving: uniform audits after which the mean cost is that after 500 audits of the rule, divided by 500; at most 4,
  because 2,000 audits are simulated.
- above risk: fraction of the runs in which a policy in force exceeds the risk; allowed: 10 %.
- alarm: audits from a change of "easy" data to this population to the alarm (median; "-": none in most runs), for
  policies that were fitted to easy data.
- risk: mean true risk of these policies on this population.
"""

import argparse
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from drift_pools import Truth, World, digits_world, synthetic_world
from drift_rules import DELTA, RISK
from edgeexit_calibration.recalibrate.audits import mean_costs, point_exits
from edgeexit_calibration.recalibrate.tracked_path import path_delta

from edgeexit.fitting import MaxRisk, ReadoutDataset, fit_thresholds
from edgeexit.fitting.change_monitor import new_monitor
from edgeexit.fitting.frontier import Thresholds
from edgeexit.fitting.path import path_of_scores
from edgeexit.fitting.path_test import PathTest, new_path_test
from edgeexit.policies import Policy, simulate
from edgeexit.policies.readout import P1, TOP1

_ALPHA: Final = 0.01
_STEP: Final = 25
_MARKS: Final = (250, 500, 1000, 2000)
_COMPARED: Final = 500
"""Audits of a rule whose cost is compared with that of uniform ones."""
_QUIET: Final = 1500
"""Audits before the change that is to raise an alarm."""
_LIMIT: Final = 6000
"""Audits after it within which an alarm counts."""
_FIT_SAMPLES: Final = 1000
_MIN_GAIN: Final = 0.03
_BAND, _FINAL_P1, _EARLIER_P1 = 0.25, 0.9, 0.6


class Drawing(NamedTuple):
    """How audits are drawn."""

    factor: int = 1
    """Probability of an unsure sample, as a multiple of that of the others."""
    exits: Literal["taken", "computed"] = "taken"

    def __str__(self) -> str:
        """Return the name in the table."""
        where = "taken exit" if self.exits == "taken" else "computed exits"
        return "uniform" if self.factor == 1 else f"{where}, {self.factor} times"


DRAWINGS: Final = (Drawing(), Drawing(2), Drawing(2, "computed"), Drawing(4, "computed"))


class Population:
    """The samples of a population, under policies that differ in their thresholds."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self._name = world, name
        readouts = world.pools[name]
        self.scores, predictions = simulate(world.unfitted, readouts)
        self.losses = (predictions != readouts[:, -1:, TOP1]).astype(np.float64)
        self._top1, self._p1 = readouts[:, :, TOP1], readouts[:, :, P1]
        self.truth = cache(self._truth)
        self.unsure = cache(self._unsure)

    @property
    def oracle(self) -> float:
        """The lowest true cost of thresholds whose true risk is at most the allowed one."""
        return min(truth.cost for (truth,) in self._world.oracle_points((self._name,)) if truth.risk <= RISK)

    def _truth(self, thresholds: Thresholds) -> Truth:
        exits = point_exits(self.scores, [thresholds])
        risk = float(self.losses[np.arange(len(exits)), exits[:, 0]].mean())
        return Truth(risk, float(mean_costs(exits, self._world.costs)[0]) / self._world.costs[-1])

    def _unsure(self, thresholds: Thresholds, exits: str) -> npt.NDArray[np.bool_]:
        """Return which samples are unsure under thresholds [N]."""
        rows, final = np.arange(len(self.scores)), self.scores.shape[1] - 1
        taken = point_exits(self.scores, [thresholds])[:, 0]
        limits = np.array([1.0 if one is None else one for one in (*thresholds, None)])[taken]
        near = (taken < final) & (self.scores[rows, taken] < limits + _BAND * (1 - limits))
        if exits == "taken":
            return np.asarray(near | ((taken == final) & (self._p1[:, -1] < _FINAL_P1)))
        is_earlier = np.arange(final + 1) < taken[:, None]
        differs = self._top1 != self._top1[rows, taken][:, None]
        return np.asarray(near | (is_earlier & differs & (self._p1 >= _EARLIER_P1)).any(axis=1))

    def draw(
        self, drawing: Drawing, thresholds: Thresholds, count: int, random: np.random.Generator
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Return the samples [count] of audits under a policy in force, and their weights [count]."""
        if drawing.factor == 1:
            return random.integers(0, len(self.scores), count), np.ones(count)
        unsure = self.unsure(thresholds, drawing.exits)
        relative = np.where(unsure, drawing.factor, 1)
        drawn = random.choice(len(unsure), count, p=relative / relative.sum())
        return drawn, 1 / relative[drawn]


class Adaptation(NamedTuple):
    """What happened from full depth on."""

    first: int | None
    costs: list[float]
    """True cost after every 25 audits."""
    highest_risk: float


def adapt(population: Population, costs: tuple[float, ...], drawing: Drawing, *, audits: int, seed: int) -> Adaptation:
    """Return how the policy becomes bolder from full depth on."""
    random = np.random.default_rng(seed)
    in_force: Thresholds = (None,) * (len(costs) - 1)
    paths: list[tuple[tuple[Thresholds, ...], PathTest]] = []
    seen, next_path_at, first, risk = np.zeros(0, np.int64), 64, None, 0.0
    found: list[float] = []
    for done in range(_STEP, audits + 1, _STEP):
        drawn, weights = population.draw(drawing, in_force, _STEP, random)
        for place, (points, test) in enumerate(paths):
            losses = population.losses[drawn[:, None], point_exits(population.scores[drawn], points)]
            paths[place] = points, test.observe(losses, weights=weights if drawing.factor > 1 else None)
        seen = np.concatenate([seen, np.repeat(drawn, np.rint(weights * drawing.factor).astype(np.int64))])
        if done >= next_path_at:
            next_path_at *= 4
            points = path_of_scores(population.scores[seen], population.losses[seen], costs)
            delta = path_delta(len(paths), delta=DELTA, alpha=_ALPHA)
            paths.append((points, new_path_test(len(points), risk=RISK, delta=delta)))
        candidates = [*(points[test.certified] for points, test in paths), in_force]
        means = mean_costs(point_exits(population.scores[seen], candidates), costs)
        if means.min() <= (1 - _MIN_GAIN) * means[-1]:
            in_force, first = candidates[int(means.argmin())], first or done
            risk = max(risk, population.truth(in_force).risk)
        found.append(population.truth(in_force).cost)
    return Adaptation(first, found, risk)


def audits_to_alarm(
    easy: Population, changed: Population, policy: Policy, drawing: Drawing, *, seed: int
) -> int | None:
    """Return the audits from a change to its alarm; None: there is none, or it is raised before the change."""
    random = np.random.default_rng(seed)
    monitor = new_monitor(RISK, alpha=_ALPHA)
    for done in range(0, _QUIET + _LIMIT, _STEP):
        population = easy if done < _QUIET else changed
        drawn, weights = population.draw(drawing, policy.thresholds, _STEP, random)
        losses = population.losses[drawn, point_exits(population.scores[drawn], [policy.thresholds])[:, 0]]
        monitor = monitor.observe(np.arange(done + 1, done + _STEP + 1), losses, weights=weights)
        if monitor.alarm is not None:
            return monitor.alarm.alarm_position - _QUIET if done >= _QUIET else None
    return None


def compare(world: World, *, runs: int, audits: int) -> list[dict[str, Any]]:
    """Return a row per population and rule."""
    populations = {name: Population(world, name) for name in world.pools}
    policies = [_fitted(world, seed) for seed in range(1, runs + 1)]
    rows = []
    for name, population in populations.items():
        oracle, uniform = population.oracle, np.zeros(0)
        for drawing in DRAWINGS:
            print(f"{world.name}: {name}, {drawing}", file=sys.stderr)
            found = [adapt(population, world.costs, drawing, audits=audits, seed=seed) for seed in range(1, runs + 1)]
            means = np.mean([one.costs for one in found], axis=0) / oracle
            uniform = means if drawing.factor == 1 else uniform
            delays = [
                audits_to_alarm(populations["easy"], population, policy, drawing, seed=seed)
                for seed, policy in enumerate(policies, start=1)
            ]
            unsure = population.unsure((None,) * (len(world.costs) - 1), drawing.exits).mean()
            rows.append(
                {
                    "data": name,
                    "audits": str(drawing),
                    "unsure": float(unsure) if drawing.factor > 1 else None,
                    "first bolder": _median([one.first for one in found]),
                    **{f"cost after {mark:,}": float(means[mark // _STEP - 1]) for mark in _MARKS if mark <= audits},
                    "saving": _saving(uniform, means) if drawing.factor > 1 else None,
                    "above risk": float(np.mean([one.highest_risk > RISK for one in found])),
                    "alarm": _median(delays) if name != "easy" else None,
                    "risk": float(np.mean([population.truth(policy.thresholds).risk for policy in policies])),
                }
            )
    return rows


def _fitted(world: World, seed: int) -> Policy:
    easy = world.pools["easy"]
    chosen = easy[np.random.default_rng(seed).integers(0, len(easy), _FIT_SAMPLES)]
    dataset = ReadoutDataset(readouts=chosen, costs=world.costs, temperatures=world.unfitted.temperatures)
    return fit_thresholds(world.unfitted, dataset, MaxRisk(risk=RISK, delta=DELTA)).policy


def _median(values: list[int | None]) -> float | None:
    median = float(np.median([np.inf if one is None else one for one in values]))
    return median if np.isfinite(median) else None


def _saving(uniform: npt.NDArray[np.float64], means: npt.NDArray[np.float64]) -> float:
    """Return the uniform audits that reach the cost after 500 audits of a rule, divided by 500."""
    reached = np.flatnonzero(uniform <= means[_COMPARED // _STEP - 1])
    return float((reached[0] + 1 if len(reached) else len(uniform)) * _STEP / _COMPARED)


def table(rows: list[dict[str, Any]]) -> str:
    """Return rows as a table in Markdown."""

    def cell(name: str, value: Any) -> str:
        if value is None or isinstance(value, str):
            return value or "-"
        if name in {"unsure", "above risk", "risk"}:
            return f"{100 * value:.0f} %"
        return f"{value:,.0f}" if name in {"first bolder", "alarm"} else f"{value:.{1 if name == 'saving' else 2}f}"

    lines = ["| " + " | ".join(rows[0]) + " |", "|---" * len(rows[0]) + "|"]
    return "\n".join(lines + ["| " + " | ".join(cell(*item) for item in row.items()) + " |" for row in rows])


def _world(name: str, cache_folder: Path | None, *, quick: bool) -> World:
    if name == "synthetic":
        return synthetic_world(5_000 if quick else 20_000)
    file = None if cache_folder is None else cache_folder / "digits.npz"
    if file is not None and file.exists():
        with np.load(file, allow_pickle=False) as stored:
            arrays = dict(stored)
        return World(name, tuple(arrays.pop("costs").tolist()), arrays)
    return digits_world(epochs=12 if quick else 20, copies=1 if quick else 5)


def main() -> None:
    """Run the benchmark and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few and short runs, to see that everything works")
    parser.add_argument("--worlds", nargs="+", choices=("synthetic", "digits"), default=["synthetic", "digits"])
    parser.add_argument("--cache", type=Path, help="folder in which `drift.py --cache` has put the digits")
    parser.add_argument("--runs", type=int, help="runs per row; default 20, quick: 2")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    runs, audits = arguments.runs or (2 if arguments.quick else 20), 500 if arguments.quick else 2000
    for name in arguments.worlds:
        world = _world(name, arguments.cache, quick=arguments.quick)
        rows = compare(world, runs=runs, audits=audits)
        print(json.dumps(rows, indent=2) if arguments.json else f"\n{world.name}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
