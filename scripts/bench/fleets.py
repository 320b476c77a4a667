"""Simulates the guarantee of many fleets whose data change often, and counts how often the promise is broken.

The risk of every policy is known exactly (`known_risk`). Harder and easier data alternate. A policy counts if it is in
force at any time outside [change, alarm], where the change is to harder data: data that are easier for every policy
break no assumption.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from edgeexit_calibration.recalibrate.audits import Audits
from edgeexit_calibration.recalibrate.guarantee import advance, begin
from edgeexit_calibration.recalibrate.guarantee_rules import GuaranteeRules
from known_risk import COSTS, FULL_DEPTH, Difficulty, audits_of, cost
from scipy import stats

DEVICES = 40
_FORGED = {"none": 0.0, "agrees": 0.05, "differs": 0.0, "alternates": 0.0}
"""Additional part of the audits that the forging device sends."""
_STEP = 250
"""Audits that arrive between two calls of the calibrator."""

Forger = Literal["none", "agrees", "differs", "alternates"]


class Promise(NamedTuple):
    """How one fleet fared."""

    periods: int
    """Times between two changes to harder data."""
    broken: int
    """Periods in which a policy in force exceeded the risk, outside [change, alarm]."""
    unseen: int
    """Periods in which a bolder policy exceeded the risk because a change raised no alarm before."""
    policies: int
    """Policies that were put in force."""
    alarms: int
    false_alarms: int
    """Alarms while the policy in force did not exceed the risk."""
    cost: float
    """Mean cost over all audits, as a fraction of full depth."""
    exceeded: float
    """Fraction of all audits at which the policy in force exceeded the risk, from a change to its alarm included."""


def simulate_fleet(seed: int, *, changes: int, audits: int, forger: Forger = "none", rules: GuaranteeRules) -> Promise:
    """Return how a fleet fared over `changes` changes of its data, to harder and easier ones in turn.

    There are `audits` audits between two changes. One of the devices forges its audits, if `forger` says so.
    """
    random = np.random.default_rng(seed)
    stored = _Stored(random, forger)
    state = begin(FULL_DEPTH, rules, last=0)
    powers = tuple(random.uniform(1, 2.5, len(COSTS) - 1).tolist())
    base = random.uniform(0.3, 0.41, len(COSTS) - 1)
    broken, unseen, policies, alarms, false_alarms = set[int](), set[int](), 0, 0, 0
    costs, exceeded = 0.0, 0
    counts = True
    for number in range(changes):
        hardness = random.uniform(1.5, 2.4) if number % 2 else random.uniform(0.2, 0.6)
        data = Difficulty(tuple((base * hardness).tolist()), powers)
        period = (number + 1) // 2
        counts = (counts or data.risk(state.policy.thresholds) <= rules.risk) if number % 2 == 0 else False
        for _ in range(audits // _STEP):
            arrived = stored.add(data, _STEP)
            while state.last < arrived.ids[-1]:
                before = state
                state, change = advance(state, arrived, stored.history, rules)
                costs += (state.last - before.last) * cost(before.policy.thresholds)
                exceeded += (state.last - before.last) * (data.risk(before.policy.thresholds) > rules.risk)
                if change is None:
                    continue
                policies += 1
                if change.alarm is not None:
                    alarms += 1
                    false_alarms += data.risk(before.policy.thresholds) <= rules.risk
                    counts = True
                elif data.risk(state.policy.thresholds) > rules.risk:
                    (broken if counts else unseen).add(period)
    return Promise(
        periods=changes // 2 + 1,
        broken=len(broken),
        unseen=len(unseen),
        policies=policies,
        alarms=alarms,
        false_alarms=false_alarms,
        cost=costs / (changes * audits),
        exceeded=exceeded / (changes * audits),
    )


def simulate_fleets(
    one: Callable[[int], Promise], count: int, *, results: Path | None, spread: Callable[..., Iterable[Promise]] = map
) -> list[Promise]:
    """Return how the fleets with seeds 1 to `count` fared; `one` simulates the fleet of a seed, `spread` is like `map`.

    Each fleet becomes a line of the file `results` as soon as it is done. Fleets that are in the file already are not
    simulated again, so a run that was stopped can be continued.
    """
    done = [] if results is None or not results.exists() else results.read_text().splitlines()
    found = [Promise(**json.loads(line)) for line in done[:count]]
    for promise in spread(one, range(len(found) + 1, count + 1)):
        found.append(promise)
        if results is not None:
            with results.open("a") as file:
                file.write(json.dumps(promise._asdict()) + "\n")
    return found


def summary(found: list[Promise], *, delta: float) -> dict[str, Any]:
    """Return how often the promise was broken, of which at most the fraction `delta` may be.

    Whatever happened before, a period is broken with a probability of at most `delta`. So the number of broken periods
    is not larger, in distribution, than a binomial one, and the bounds of Clopper and Pearson are valid.
    """
    periods, broken = sum(one.periods for one in found), sum(one.broken for one in found)
    policies = [one.policies for one in found]
    bounds = stats.binomtest(broken, periods).proportion_ci(0.95, method="exact")
    return {
        "fleets": len(found),
        "policies per fleet": float(np.mean(policies)),
        "fleets with fewer than 100 policies": sum(one < 100 for one in policies),  # noqa: PLR2004 - as its name says
        "periods between changes": periods,
        "periods with the promise broken": broken,
        "fraction of periods with the promise broken": broken / periods,
        "its 95 % confidence interval": [float(bounds.low), float(bounds.high)],
        "probability of at least as many if the promise holds": float(stats.binom.sf(broken - 1, periods, delta)),
        "periods broken because a change raised no alarm": sum(one.unseen for one in found),
        "fleets with the promise ever broken": sum(one.broken > 0 for one in found),
        "alarms per fleet": float(np.mean([one.alarms for one in found])),
        "false alarms": sum(one.false_alarms for one in found),
        "epochs": sum(one.alarms + 1 for one in found),
        "fraction of audits at which the policy in force exceeds the risk": float(np.mean([o.exceeded for o in found])),
        "mean cost": float(np.mean([one.cost for one in found])),
    }


class _Stored:
    """The audits so far."""

    def __init__(self, random: np.random.Generator, forger: Forger) -> None:
        self._random = random
        self._forger = forger
        self._parts: list[Audits] = []
        self._last = 0

    def add(self, data: Difficulty, count: int) -> Audits:
        """Draw audits from `data`, forge those of device 0, and return them."""
        readouts = data.draw(count, self._random)
        devices = self._random.integers(0, DEVICES, count)
        if self._forger != "none":
            devices[self._random.random(count) < _FORGED[self._forger]] = 0
            differs = self._forger == "differs" or (self._forger == "alternates" and self._random.random() < 0.5)  # noqa: PLR2004
            readouts[devices == 0, :, 0] = [*[float(differs)] * (len(COSTS) - 1), 0]
            readouts[devices == 0, :, 1] = 1
        audits = audits_of(readouts, devices, after=self._last)
        self._last += count
        self._parts.append(audits)
        return audits

    def history(self, first: int, last: int, limit: int) -> Audits:
        """Return the newest `limit` audits with ids from `first` to `last`."""
        first = max(first, last - limit + 1)
        parts = self._parts[(first - 1) // _STEP : (last - 1) // _STEP + 1]
        joined = Audits(*(np.concatenate(column) for column in zip(*(part[:3] for part in parts), strict=True)))
        start = first - int(joined.ids[0])
        return joined.part(start, start + last - first + 1)
