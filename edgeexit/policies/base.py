"""The base class of all exit policies: immutable parameters, and a pure function that decides at each exit."""

from functools import cached_property
from math import isfinite
from typing import ClassVar, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from edgeexit.errors import PolicyError
from edgeexit.policies.readout import TOP1, Array, as_float32


class Decision(NamedTuple):
    """The decision of a policy on a batch at one exit."""

    exit_mask: npt.NDArray[np.bool_]
    """[B] True where the sample exits here."""
    score: Array
    """[B] float32; at an early exit, the sample exits if its score is at least the threshold."""
    prediction: Array
    """[B] float32; the class that is returned for the sample if it exits here."""
    state: Array
    """[B, S] float32; the state of the samples after this exit. Select the rows of the samples that continue and pass
    them to the next exit. S may grow from exit to exit."""


_STATELESS: Final = np.empty((1, 0), dtype=np.float32)
SingleDecision = tuple[bool, float, float, Array]
"""The decision of a policy on a single sample at one exit: whether it exits, its score, its prediction if it exits, and
its state [1, S] after this exit. A plain tuple, because a named one takes 3 us more from cold caches."""


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", dict=True):
    """The parameters of an exit policy. Each kind is a subclass whose `tag` is the kind's name.

    A sample exits at the first exit k whose score is at least `thresholds[k]`. Every remaining sample exits at the
    final exit, with the prediction of the final exit. A policy whose thresholds are all None is the full model. A
    sample does not exit at an early exit whose readout contains a number that is not finite. The decision on a sample
    does not depend on the other samples of its batch, to the bit. Arrays that are derived from the fields are cached
    properties, for which msgspec needs `dict=True`.
    """

    reads_probabilities: ClassVar[bool] = False
    """True if readouts must contain the probabilities of all classes after their four columns."""

    temperatures: tuple[float, ...]
    """[K] softmax temperature of each exit; the stage divides the logits by it."""
    thresholds: tuple[float | None, ...]
    """[K-1] lowest score that exits, for each exit but the final one; None (null in JSON): no sample exits here."""

    def __post_init__(self) -> None:
        """Raise ValueError for fields of the wrong length or out of range; msgspec adds the path of the field."""
        exits = len(self.temperatures)
        if exits < 2:  # noqa: PLR2004 - an early exit and the final one
            raise ValueError(f"temperatures has {exits} entries; a policy needs at least 2 exits")
        if not all(isfinite(t) and t > 0 for t in self.temperatures):
            raise ValueError(f"temperatures {list(self.temperatures)} must all be finite and above 0")
        if len(self.thresholds) != exits - 1:
            found = len(self.thresholds)
            raise ValueError(f"thresholds has {found} entries where {exits - 1} are needed, one per early exit")
        if not all(t is None or isfinite(t) for t in self.thresholds):
            raise ValueError(f"thresholds {list(self.thresholds)} must be finite, or null where no sample exits")

    @property
    def kind(self) -> str:
        """The name of the kind in documents, on the command line and in the registry."""
        return str(self.__struct_config__.tag)

    @property
    def exits(self) -> int:
        """Number of exits K, including the final one."""
        return len(self.temperatures)

    @property
    def classes(self) -> int | None:
        """Number of classes that the parameters are for, or None if the policy works for any number."""
        return None

    @property
    def score_limits(self) -> tuple[float, ...]:
        """[K] the highest possible score at each exit; no sample exits at a threshold above it."""
        return (1.0,) * self.exits

    @cached_property
    def score_limit(self) -> float:
        """The highest possible score at any exit; score histograms in reports are scaled by it."""
        return max(self.score_limits)

    @property
    def unreachable_exits(self) -> tuple[int, ...]:
        """The early exits whose threshold is above the highest possible score, so that no sample exits there."""
        limited = zip(self.thresholds, self.score_limits, strict=False)
        return tuple(k for k, (t, limit) in enumerate(limited) if t is not None and t - limit > _slack(limit))

    def require_fits(self, exits: int, classes: int) -> None:
        """Raise PolicyError unless the policy is for a model with this number of exits and of classes."""
        if self.exits != exits:
            raise PolicyError(f"policy '{self.kind}' is for {self.exits} exits, the bundle has {exits}")
        if self.classes not in {None, classes}:
            raise PolicyError(f"policy '{self.kind}' is for {self.classes} classes, the bundle has {classes}")

    def initial_state(self, batch: int) -> Array:
        """Return the state [batch, S] float32 of samples before the first exit; S = 0 for a policy without a state."""
        return _STATELESS if batch == 1 else np.empty((batch, 0), dtype=np.float32)

    def score(self, exit_index: int, readout: Array, state: Array) -> tuple[Array, Array]:
        """Return the score [B] float32 at an exit and the state [B, S] after it, for a readout [B, 4] or [B, 4 + C].

        Each row of the readout is either all finite or all NaN. A row of NaN may leave NaN in the state of its sample.
        """
        raise NotImplementedError

    def predictions(self, exit_index: int, readout: Array, state: Array) -> Array:  # noqa: ARG002 - ensembles read the state
        """Return the predictions [B] at an early exit, given its readout and the state after `score`."""
        return readout[:, TOP1]

    def decide(self, exit_index: int, readout: Array, state: Array) -> Decision:
        """Decide which samples exit at `exit_index`, given its readout [B, 4] or [B, 4 + C] and their state [B, S]."""
        if b"\0" not in np.isfinite(readout).tobytes():  # all finite; takes half the time of np.all
            score, state = self.score(exit_index, readout, state)
        else:
            score, state = self._score_non_finite(exit_index, readout, state)
        if exit_index == self._final:
            exit_mask = np.empty(len(score), dtype=np.bool_)
            exit_mask[:] = True  # faster than np.ones
            return Decision(exit_mask, score, readout[:, TOP1], state)
        threshold = self._thresholds[exit_index]
        exit_mask = np.zeros(len(score), dtype=np.bool_) if threshold is None else score >= threshold
        return Decision(exit_mask, score, self.predictions(exit_index, readout, state), state)

    def decide_single(self, exit_index: int, readout: Array, state: Array) -> SingleDecision:
        """Decide on a single sample as `decide` does, to the bit, given its readout [1, ...] and its state [1, S]."""
        exit_mask, score, prediction, state = self.decide(exit_index, readout, state)
        return exit_mask.item(), score.item(), prediction.item(), state

    def _score_non_finite(self, exit_index: int, readout: Array, state: Array) -> tuple[Array, Array]:
        """Return the same as `score`, with a score of NaN for samples whose readout is not all finite."""
        finite: npt.NDArray[np.bool_] = np.all(np.isfinite(readout), axis=1)
        nan = np.float32(np.nan)
        with np.errstate(invalid="ignore"):
            score, state = self.score(exit_index, np.where(finite[:, None], readout, nan), state)
        return np.where(finite, score, nan), state

    @cached_property
    def _final(self) -> int:
        return self.exits - 1

    @cached_property
    def _thresholds(self) -> tuple[Array | None, ...]:
        """The thresholds in float32, as scores are; a threshold beyond the range of float32 becomes infinite."""
        return tuple(None if t is None else as_float32(t) for t in self.thresholds)


def _slack(limit: float) -> float:
    """Return the highest error by which rounding in float32 can raise a score above its limit."""
    return 1e-5 * max(1.0, abs(limit))
