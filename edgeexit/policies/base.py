"""What every exit policy is: frozen numbers, and a pure decision per exit."""

from functools import cached_property
from math import isfinite
from typing import ClassVar, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from edgeexit.policies.readout import TOP1, Array, as_float32


class Decision(NamedTuple):
    """What a policy says of a batch at one exit."""

    exit_mask: npt.NDArray[np.bool_]
    """[B] True where the sample leaves here."""
    score: Array
    """[B] float32; the sample leaves when its score reaches the exit's threshold."""
    prediction: Array
    """[B] float32; the class that the sample is answered with if it leaves here."""
    state: Array
    """[B, S] float32; the samples' state after this exit; compact it with the survivors. S may grow."""


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", dict=True):
    """The parameters of an exit policy; a subclass a kind.

    A sample leaves at the first exit k whose score reaches `thresholds[k]`. The final exit always answers, and with
    its own class: a policy that lets nothing leave early is the whole model. Numbers that are not finite in a readout
    never let a sample leave. What is said of a sample does not depend, to the bit, on its batch mates. Arrays worked
    out of the fields are cached properties (`dict=True` gives them a place).
    """

    reads_probabilities: ClassVar[bool] = False
    """Whether readouts are to have the probabilities of all classes behind their four columns."""

    temperatures: tuple[float, ...]
    """[K] softmax temperature of every exit; logits are divided by it inside the stage."""
    thresholds: tuple[float | None, ...]
    """[K-1] least score to leave at each exit but the last; null: nothing leaves here."""

    def __post_init__(self) -> None:
        """Refuse numbers that cannot decide (ValueError; msgspec names the field's path)."""
        exits = len(self.temperatures)
        if exits < 2:  # noqa: PLR2004 - an early exit and a final one
            raise ValueError(f"temperatures has {exits} entries; a policy needs at least 2 exits")
        if not all(isfinite(t) and t > 0 for t in self.temperatures):
            raise ValueError(f"temperatures {list(self.temperatures)} must all be finite and above 0")
        if len(self.thresholds) != exits - 1:
            found = len(self.thresholds)
            raise ValueError(f"thresholds has {found} entries where {exits - 1} are needed: one less than temperatures")
        if not all(t is None or isfinite(t) for t in self.thresholds):
            raise ValueError(f"thresholds {list(self.thresholds)} must be finite, or null for 'never here'")

    @property
    def kind(self) -> str:
        """The name of this policy in documents, the CLI and the registry."""
        return str(self.__struct_config__.tag)

    @property
    def exits(self) -> int:
        """Number of exits K, the final one included."""
        return len(self.temperatures)

    @property
    def classes(self) -> int | None:
        """Number of classes that the fields are for, or None where they suit any."""
        return None

    @property
    def score_limits(self) -> tuple[float, ...]:
        """[K] the highest score that can occur at each exit; a threshold above it never lets anything leave."""
        return (1.0,) * self.exits

    @cached_property
    def score_limit(self) -> float:
        """The highest score that can occur anywhere; reports scale their score histogram by it."""
        return max(self.score_limits)

    @property
    def unreachable_exits(self) -> tuple[int, ...]:
        """The exits whose threshold is set, and so high that nothing can ever leave there."""
        limited = zip(self.thresholds, self.score_limits, strict=False)
        return tuple(k for k, (t, limit) in enumerate(limited) if t is not None and t - limit > _slack(limit))

    def initial_state(self, batch: int) -> Array:
        """Return the state [batch, S] of samples that have seen no exit yet; S = 0 without memory."""
        return np.empty((batch, 0), dtype=np.float32)

    def score(self, exit_index: int, readout: Array, state: Array) -> tuple[Array, Array]:
        """Return the score [B] at an exit and the state [B, S] after it, for a readout [B, 4] or [B, 4 + C].

        A row of the readout is all finite or all NaN, and so may be the state that came of it.
        """
        raise NotImplementedError

    def predictions(self, exit_index: int, readout: Array, state: Array) -> Array:  # noqa: ARG002 - an ensemble's is its own
        """Return the classes [B] to answer with at an early exit, given its readout and the state after its score."""
        return readout[:, TOP1]

    def decide(self, exit_index: int, readout: Array, state: Array) -> Decision:
        """Decide which samples leave at `exit_index`, given its readout and their state [B, S]."""
        if b"\0" not in np.isfinite(readout).tobytes():  # all true; half the time of a reduction
            score, state = self.score(exit_index, readout, state)
        else:
            score, state = self._score_damaged(exit_index, readout, state)
        if exit_index == self._final:
            exit_mask = np.empty(len(score), dtype=np.bool_)
            exit_mask[:] = True  # quicker than np.ones
            return Decision(exit_mask, score, readout[:, TOP1], state)
        threshold = self._thresholds[exit_index]
        exit_mask = np.zeros(len(score), dtype=np.bool_) if threshold is None else score >= threshold
        return Decision(exit_mask, score, self.predictions(exit_index, readout, state), state)

    def _score_damaged(self, exit_index: int, readout: Array, state: Array) -> tuple[Array, Array]:
        """Return what `score` does, with NaN for the samples whose readout is not all finite."""
        sound: npt.NDArray[np.bool_] = np.all(np.isfinite(readout), axis=1)
        nan = np.float32(np.nan)
        with np.errstate(invalid="ignore"):
            score, state = self.score(exit_index, np.where(sound[:, None], readout, nan), state)
        return np.where(sound, score, nan), state

    @cached_property
    def _final(self) -> int:
        return self.exits - 1

    @cached_property
    def _thresholds(self) -> tuple[Array | None, ...]:
        """The thresholds as they are compared; one that float32 cannot hold becomes infinite."""
        return tuple(None if t is None else as_float32(t) for t in self.thresholds)


def _slack(limit: float) -> float:
    """Return how far above its limit a score may come out that was summed in float32."""
    return 1e-5 * max(1.0, abs(limit))
