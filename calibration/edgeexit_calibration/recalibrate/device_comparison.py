"""Finds the devices of a cohort whose losses are far above those of the others.

A device is far from its cohort if its mean loss exceeds that of the others by more than the registered risk. Its audits
are compared with the mean m of the losses of the n audits of others between its own ones, all under the policy in
force. So a change that concerns all devices concerns both sides. As a device sends several audits in a message, up to
`_MAX_USES` of them are compared with the same m. A bettor bets that the device is far, from any of its audits on. The
capitals of all bets, of which that on audit s begins with a weight w_s, are

    S_t = (S_{t-1} + w_t) (1 + b (l_t - m - risk)) exp(-(2 k - 1) b^2 / (8 n)),    w_1 + w_2 + ... = 1,

averaged over a few b from 0 to 1 / (1 + risk). l_t is the loss of the audit, the k-th that is compared with this m. By
Hoeffding's inequality, the last factor makes up for the k uses of one m. While the mean loss of the device is at most
that of the others plus the risk, S plus the weights that are left, before each new m, is a non-negative
supermartingale that begins at 1. So S ever reaches c there with a probability of at most 1/c (Ville's inequality).
Test number j of an epoch finds a device at S >= j (j + 1) / alpha. As 1 / (j (j + 1)) adds up to 1, the probability
that any device is found in an epoch that is not far is at most `ALPHA`.

A test begins after the first loss of a device, and does not count this loss. If there are too many, the one with the
least capital ends, so the memory is bounded; if the device has another loss, it gets another test.

At a change of the data, audits can be compared with audits from before the change, with one m per device. This alone
finds no device.

Sources: Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting" (JRSS B, 2023); Shin, Ramdas &
Rinaldo, "E-detectors: a nonparametric framework for sequential change detection" (NEJSDS 2023).
"""

from collections.abc import Sequence
from math import exp, log
from typing import Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

ALPHA: Final = 0.01
"""Maximum probability that any device of an epoch is found although it is not far from the others."""
_BETS: Final = (0.9, 0.45, 0.15)
"""b times 1 + risk: high bets find devices of which most losses are 1, low ones those that are nearer."""
_MAX_USES: Final = 8
"""Audits of a device that are compared with the same audits of others; at most a quarter of their number."""
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
    capitals: tuple[float, ...]
    """S of each bet."""
    bets: int = 0
    """Audits that were compared."""
    audits: int = 0
    """Those since the evidence began to grow, with the sums of both losses."""
    losses: float = 0.0
    others: float = 0.0
    compared: int = 0
    """Number n of the audits of others with which the device is compared, their mean loss, and the uses k of it."""
    mean: float = 0.0
    uses: int = 0
    begun: float = 0.0
    """Mean S before the first of these uses."""
    run: float = 0.0
    """Highest capital of a first bet, of all audits on which it could have begun; below 1: the evidence begins anew."""

    def with_others(self, audits: int, losses: float) -> "_Test":
        """Return the test that compares the next audits of the device with these audits of others."""
        begun = sum(self.capitals) / len(self.capitals)
        return self._replace(compared=audits, mean=losses / audits, uses=0, begun=begun)

    def after(self, loss: float, bets: Sequence[float], risk: float) -> "_Test":
        """Return the test after an audit of the device."""
        weight, uses = _left(self.bets) - _left(self.bets + 1), self.uses + 1
        excess, cost = loss - self.mean - risk, (2 * uses - 1) / (8 * self.compared)
        factors = [(1 + bet * excess) * exp(-cost * bet * bet) for bet in bets]
        audits, losses, others = (0, 0.0, 0.0) if self.run <= 1 else (self.audits, self.losses, self.others)
        return self._replace(
            capitals=tuple((capital + weight) * factor for capital, factor in zip(self.capitals, factors, strict=True)),
            bets=self.bets + 1,
            audits=audits + 1,
            losses=losses + loss,
            others=others + self.mean,
            uses=uses,
            run=max(self.run, 1.0) * factors[0],
        )


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
                    test = test.with_others(seen - test.seen, seen_losses - test.seen_losses)
                if test.uses < min(_MAX_USES, max(test.compared // 4, 1)) and test.compared:
                    test = test.after(loss, bets, risk)
                tests[device] = test._replace(seen=following[0], seen_losses=following[1])
            elif loss:
                if len(tests) >= _MAX_DEVICES:
                    del tests[min(tests, key=lambda one: (sum(tests[one].capitals), one))]
                begun += 1
                tests[device] = _Test(*following, number=begun, capitals=(0.0,) * len(bets))
            seen, seen_losses = following
        return msgspec.structs.replace(self, tests=tests, begun=begun, seen=seen, seen_losses=seen_losses)

    def under_another_policy(self) -> "DeviceComparison":
        """Return the state when another policy is put in force: audits are compared with those under it."""
        tests = {device: test._replace(seen=0, seen_losses=0.0, compared=0) for device, test in self.tests.items()}
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
            (test.number * (test.number + 1) / max(test.begun, 1e-300), device, test)
            for device, test in self.tests.items()
            if test.begun >= test.number * (test.number + 1) / ALPHA
        ]
        return tuple(
            FarDevice(
                device=device, audits=test.audits, loss=test.losses / test.audits, others=test.others / test.audits
            )
            for _, device, test in sorted(found, key=lambda one: one[:2])
        )


def _left(bets: int) -> float:
    """Return the sum of the weights of all bets but the first `bets`; it falls slowly, so a late change is found."""
    return log(2) / log(bets + 2)
