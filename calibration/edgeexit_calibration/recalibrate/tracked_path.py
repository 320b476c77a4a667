"""A path of nested thresholds under test on the audits of a cohort, and its part of the probability of error."""

from math import pi

import msgspec

from edgeexit.fitting.frontier import Thresholds
from edgeexit.fitting.path_test import PathTest, new_path_test
from edgeexit.policies import Policy
from edgeexit.policies.document import Loss
from edgeexit_calibration.recalibrate.audits import Audits, outcomes
from edgeexit_calibration.recalibrate.device_counts import DeviceCounts


class TrackedPath(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A path and its tests, from `new_tracked_path`; `observe` returns the next state."""

    thresholds: tuple[Thresholds, ...]
    """[P] from full depth to the boldest."""
    test: PathTest
    after: int
    """Id of the audit after which the test began."""
    devices: DeviceCounts
    """Audits of each device in the test."""

    @property
    def boldest(self) -> Thresholds:
        """The boldest certified point."""
        return self.thresholds[self.test.certified]

    def observe(self, policy: Policy, audits: Audits, loss: Loss) -> "TrackedPath":
        """Return the state after the next audits, for the kind, temperatures and weights of `policy`."""
        devices, discounts = self.devices.counted(audits.devices.tolist())
        losses = outcomes(policy, audits, self.thresholds, loss).losses
        return msgspec.structs.replace(self, test=self.test.observe(losses, discounts=discounts), devices=devices)


def new_tracked_path(
    thresholds: tuple[Thresholds, ...], *, risk: float, delta: float, after: int, tolerated_devices: int
) -> TrackedPath:
    """Return a path without audits, whose test begins after audit `after`; for `delta` see `path_delta`."""
    return TrackedPath(
        thresholds=thresholds,
        test=new_path_test(len(thresholds), risk=risk, delta=delta),
        after=after,
        devices=DeviceCounts(tolerated=tolerated_devices),
    )


def path_delta(number: int, *, delta: float, alpha: float) -> float:
    """Return the part of `delta` for path `number`, from 0 on, of an epoch.

    The parts of an epoch add up to delta (1 - alpha). A false alarm, of probability at most `alpha`, begins another
    epoch with the same data, and so on: the epochs between two changes together have at most
    delta (1 - alpha) (1 + alpha + alpha^2 + ...) = delta.
    """
    return delta * (1 - alpha) * 6 / (pi * (number + 1)) ** 2
