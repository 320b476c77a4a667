"""Finds the devices of a cohort whose losses are far above those of the others.

A device is far from its cohort if its mean loss exceeds that of the others by more than the registered risk. Each audit
of a device with loss l is compared with the mean m of the losses of the others' audits since its previous audit, both
under the policy in force. So a change that concerns all devices concerns both sides. A bettor bets that the device is
far, from any of its audits on. The capitals of all bets, of which that on audit s begins with a weight w_s, are

    S_t = (S_{t-1} + w_t) (1 + b (l_t - m_t - risk)),    0 < b < 1 / (1 + risk),    w_1 + w_2 + ... = 1,

averaged over a few b. While the mean of l_t - m_t, given the audits before, is at most the risk, S plus the weights
that are left is a non-negative supermartingale that begins at 1. So S ever reaches c with a probability of at most 1/c
(Ville's inequality). Test number j of an epoch finds a device at S >= j (j + 1) / alpha. As 1 / (j (j + 1)) adds up to
1, the probability that any device is found in an epoch that is not far is at most `ALPHA`.

A test begins after the first loss of a device, and does not count this loss. If there are too many, the one with the
least capital ends, so the memory is bounded; if the device has another loss, it gets another test.

At a change of the data, an audit can be compared with audits from before the change, once per device.

Sources: Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting" (JRSS B, 2023); Shin, Ramdas &
Rinaldo, "E-detectors: a nonparametric framework for sequential change detection" (NEJSDS 2023).
"""

from collections.abc import Sequence
from math import log
from typing import Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

ALPHA: Final = 0.01
"""Maximum probability that any device of an epoch is found although it is not far from the others."""
_BETS: Final = (0.9, 0.45, 0.15)
"""b times 1 + risk: high bets find devices of which most losses are 1, low ones those that are nearer."""
_MAX_DEVICES: Final = 2000
"""Devices that are under test at the same time."""


class FarDevice(msgspec.Struct, frozen=True, kw_only=True):
    """A device whose losses are far above those of the others."""

    device: int
    """Its id."""
    audits: int
    """Number of its audits since the evidence began to grow."""
    loss: float
    """Their mean loss."""
    others: float
    """The mean loss of the others in that time."""


class _Test(NamedTuple):
    """The test of one device."""

    seen: int
    """Audits and losses of all devices under the policy in force, up to the last audit of this one."""
    seen_losses: float
    number: int
    bets: int
    """Audits that were compared."""
    audits: int
    """Those since the evidence began to grow, with the sums of both losses."""
    losses: float
    others: float
    run: float
    """Highest capital of a first bet, of all audits on which it could have begun; below 1: the evidence begins anew."""
    capitals: tuple[float, ...]
    """S of each bet."""


class DeviceComparison(msgspec.Struct, frozen=True, kw_only=True):
    """The tests of the devices of a cohort; empty at first. `observe` returns the next state."""

    tests: dict[int, _Test] = {}
    """Device id -> its test."""
    begun: int = 0
    """Number of tests so far."""
    seen: int = 0
    """Audits of all devices under the policy in force."""
    seen_losses: float = 0.0
    """The sum of their losses."""

    def observe(
        self, devices: npt.NDArray[np.int64], losses: npt.NDArray[np.float64], *, risk: float
    ) -> "DeviceComparison":
        """Return the state after audits of `devices` [n] with `losses` [n] in [0, 1] under the policy in force.

        The state does not depend on how audits are split into calls.
        """
        tests, begun, seen, seen_losses = dict(self.tests), self.begun, self.seen, self.seen_losses
        bets = [bet / (1 + risk) for bet in _BETS]
        for device, loss in zip(devices.tolist(), losses.tolist(), strict=True):
            test = tests.get(device)
            following = seen + 1, seen_losses + loss
            if test is not None:
                if seen > test.seen:
                    test = _compared(test, loss, (seen_losses - test.seen_losses) / (seen - test.seen), bets, risk)
                tests[device] = _Test(*following, *test[2:])
            elif loss:
                if len(tests) >= _MAX_DEVICES:
                    del tests[min(tests, key=lambda one: (sum(tests[one].capitals), one))]
                begun += 1
                tests[device] = _Test(*following, begun, 0, 0, 0.0, 0.0, 0.0, (0.0,) * len(bets))
            seen, seen_losses = following
        return msgspec.structs.replace(self, tests=tests, begun=begun, seen=seen, seen_losses=seen_losses)

    def under_another_policy(self) -> "DeviceComparison":
        """Return the state when another policy is put in force: audits are compared with those under it."""
        tests = {device: test._replace(seen=0, seen_losses=0.0) for device, test in self.tests.items()}
        return msgspec.structs.replace(self, tests=tests, seen=0, seen_losses=0.0)

    def without(self, devices: Sequence[int]) -> "DeviceComparison":
        """Return the state without the tests of some devices."""
        return msgspec.structs.replace(
            self, tests={device: test for device, test in self.tests.items() if device not in set(devices)}
        )

    @property
    def far(self) -> tuple[FarDevice, ...]:
        """The devices that are far from the others, the one with the most evidence first."""
        found = [
            (test.number * (test.number + 1) / sum(test.capitals), device, test)
            for device, test in self.tests.items()
            if sum(test.capitals) / len(_BETS) >= test.number * (test.number + 1) / ALPHA
        ]
        return tuple(
            FarDevice(
                device=device, audits=test.audits, loss=test.losses / test.audits, others=test.others / test.audits
            )
            for _, device, test in sorted(found, key=lambda one: one[:2])
        )


def _compared(test: _Test, loss: float, others: float, bets: Sequence[float], risk: float) -> _Test:
    """Return a test after an audit of its device, and the mean loss of the others since the one before."""
    weight = _left(test.bets) - _left(test.bets + 1)
    factors = [1 + bet * (loss - others - risk) for bet in bets]
    audits, losses, means = (0, 0.0, 0.0) if test.run <= 1 else (test.audits, test.losses, test.others)
    return _Test(
        test.seen,
        test.seen_losses,
        test.number,
        test.bets + 1,
        audits + 1,
        losses + loss,
        means + others,
        max(test.run, 1.0) * factors[0],
        tuple((capital + weight) * factor for capital, factor in zip(test.capitals, factors, strict=True)),
    )


def _left(bets: int) -> float:
    """Return the sum of the weights of all bets but the first `bets`; it falls slowly, so a late change is found."""
    return log(2) / log(bets + 2)
