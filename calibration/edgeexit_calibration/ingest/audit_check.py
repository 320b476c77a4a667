"""Finds audits that no honest device can have sent: readouts that no softmax has, and decisions of another policy.

The samples of a batch are checked together, because a call of NumPy costs more than a sample.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.policies import Policy
from edgeexit.policies.readout import Array
from edgeexit.wire import Audit
from edgeexit_calibration.ingest.decision_check import (
    are_possible,
    are_possible_scores,
    decided,
    difference,
    score_difference,
)
from edgeexit_calibration.ingest.readout_bounds import MAX_CLASSES, find_faults
from edgeexit_calibration.ingest.sample_arrays import SampleArrays

_PER_ROUND: Final = 4
_CHUNK: Final = 256

_Indices = npt.NDArray[np.int64]


class AuditToCheck(NamedTuple):
    """An audit, and what is known of the model and the policy that it names."""

    samples: SampleArrays
    classes: int | None
    """Number of classes of the model; None: unknown."""
    revision: int
    policy: Policy | None
    """The policy of the revision, for as many exits as the samples have; None: unknown."""


def impossible_audits(audits: Sequence[AuditToCheck]) -> dict[int, str]:
    """Return why audits are impossible, by their place; the others may be what an honest device sends."""
    reasons: dict[int, str] = {}
    with np.errstate(over="ignore", invalid="ignore"):
        for places in _groups(audits, lambda audit: audit.samples.readouts.shape[1]):
            reasons.update(_impossible_readouts(audits, places))
        for places in _groups(audits, lambda audit: None if audit.policy is None else id(audit.policy)):
            policy = audits[places[0]].policy
            if policy is not None:
                reasons.update(_impossible_decisions(policy, audits, [one for one in places if one not in reasons]))
    return reasons


def wrong_task(task: str | None, audit: Audit) -> str | None:
    """Return why an audit is not of a model for the task, which is None if it is unknown; None: it may be."""
    has_fractions = audit.samples[0].differing is not None
    if task is None or has_fractions == (task != "classification"):
        return None
    if has_fractions:
        return "the fractions of a map, but the bundle is a classification"
    return f"no fractions of a map, but the bundle is a {task}; the agent is older than this calibrator, upgrade it"


def _groups(audits: Sequence[AuditToCheck], key: Callable[[AuditToCheck], Hashable]) -> Iterator[list[int]]:
    """Yield the places of the audits with the same key."""
    groups: defaultdict[Hashable, list[int]] = defaultdict(list)
    for place, audit in enumerate(audits):
        groups[key(audit)].append(place)
    yield from groups.values()


def _impossible_readouts(audits: Sequence[AuditToCheck], places: Sequence[int]) -> Iterator[tuple[int, str]]:
    chosen = [audits[place] for place in places]
    sizes = np.array([len(audit.samples.exits) for audit in chosen])
    classes = np.repeat([audit.classes or MAX_CLASSES for audit in chosen], sizes)
    starts = np.cumsum(sizes) - sizes
    readouts = np.concatenate([audit.samples.readouts for audit in chosen])
    for index, fault in find_faults(readouts, classes, starts).items():
        yield places[index], f"sample {fault.sample}, {fault.reason}"
    for place, audit in zip(places, chosen, strict=True):
        highest = int(audit.samples.predictions.max())
        if audit.classes is not None and highest >= audit.classes:
            yield place, f"prediction {highest}, but the model has {audit.classes} classes"
        elif audit.classes is not None and (highest := int(audit.samples.labels.max())) >= audit.classes:
            yield place, f"label {highest}, but the model has {audit.classes} classes"


def _impossible_decisions(
    policy: Policy, audits: Sequence[AuditToCheck], places: Sequence[int]
) -> Iterator[tuple[int, str]]:
    """Yield the audits with a decision that is not that of the policy."""
    if policy.reads_probabilities:
        places = [place for place in places if audits[place].samples.scored is not None]
    if not places:
        return
    chosen = [audits[place].samples for place in places]
    owners = np.repeat(np.arange(len(places)), [len(samples.exits) for samples in chosen])
    exits = np.concatenate([samples.exits for samples in chosen])
    if policy.reads_probabilities:
        scores = np.concatenate([samples.scored.scores for samples in chosen if samples.scored is not None])
        wrong = np.flatnonzero(~are_possible_scores(policy, scores, exits))
    else:
        readouts = np.concatenate([samples.readouts for samples in chosen])
        predictions = np.concatenate([samples.predictions for samples in chosen])
        wrong = _wrong_decisions(policy, readouts, exits, predictions, owners)
    for index in wrong[np.unique(owners[wrong], return_index=True)[1]].tolist():
        owner, exit_index = int(owners[index]), int(exits[index])
        if policy.reads_probabilities:
            reason = score_difference(policy, scores[index], exit_index)
        else:
            reason = difference(policy, readouts[index], exit_index)
        sample = index - int(np.searchsorted(owners, owner))
        yield places[owner], f"sample {sample}: under revision {audits[places[owner]].revision}, {reason}"


def _wrong_decisions(
    policy: Policy, readouts: Array, exits: _Indices, predictions: _Indices, owners: _Indices
) -> _Indices:
    """Return the places of impossible decisions, in ascending order; of the audits [N] `owners`, one each is enough.

    A decision that is not exactly that of the policy costs ten times as much as another one. So each round takes a few
    of each audit, and an audit with an impossible one has no further round.
    """
    suspects = np.flatnonzero(~decided(policy, readouts, exits, predictions))
    wrong: list[_Indices] = [np.empty(0, np.int64)]
    while len(suspects):
        first = np.searchsorted(owners[suspects], owners[suspects])
        in_round = np.arange(len(suspects)) - first < _PER_ROUND
        chosen = suspects[in_round]
        for start in range(0, len(chosen), _CHUNK):
            part = chosen[start : start + _CHUNK]
            wrong.append(part[~are_possible(policy, readouts[part], exits[part], predictions[part])])
        suspects = suspects[~in_round]
        suspects = suspects[~np.isin(owners[suspects], owners[np.concatenate(wrong)])]
    return np.sort(np.concatenate(wrong))
