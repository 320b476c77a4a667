"""Decisions are recomputed from readouts: those of agents pass, whatever rounds their logits, and lies are found."""

import msgspec
import numpy as np
import pytest
from edgeexit_calibration.ingest.audit_check import AuditToCheck, impossible_audits
from edgeexit_calibration.ingest.decision_check import LOGIT_ERROR, decided
from edgeexit_calibration.ingest.sample_arrays import arrays_of
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgeexit.policies import KINDS, simulate
from edgeexit.policies.confidence import Confidence
from edgeexit.policies.pcee import Pcee
from edgeexit.wire import AuditedSample
from tests.policies.policy_examples import EXITS, Decided, as_read, decide_in_turn, kinds, make_policy, seeds

CLASSES = 4
FROM_READOUTS = [kind for kind, policy in KINDS.items() if not policy.reads_probabilities]


def wide_readouts(logits):
    """Return the readouts [N, K, 4 + C] float32 of logits [N, K, C]."""
    p = np.exp(logits - logits.max(axis=2, keepdims=True))
    p /= p.sum(axis=2, keepdims=True)
    top = np.sort(p, axis=2)
    entropy = -(p * np.log(np.maximum(p, 1e-300))).sum(axis=2)
    columns = np.stack([p.argmax(axis=2), top[:, :, -1], top[:, :, -2], entropy], axis=2)
    return np.concatenate([columns, p], axis=2).astype(np.float32)


def logits_of(samples, seed):
    random = np.random.default_rng(seed)
    return random.normal(0, 1, (samples, EXITS, CLASSES)) * random.choice([0.5, 3, 10], (samples, EXITS, 1))


def decide_alone(policy, readouts):
    """Decide as the runner does for single samples."""
    exits, predictions = [], []
    for sample in as_read(policy, readouts)[:, None]:
        state = policy.initial_state(1)
        for k in range(policy.exits):
            leaves, _, prediction, state = policy.decide_single(k, np.ascontiguousarray(sample[:, k]), state)
            if leaves:
                exits.append(k)
                predictions.append(prediction)
                break
    return Decided(np.array(exits), np.array(predictions), None)


def audit_of(policy, outcome, readouts, *, revision=3, classes=None):
    """Return an audit of decisions and of readouts [N, K, 4 + C], after it was sent as JSON."""
    scored = simulate(policy, readouts) if policy.reads_probabilities else None
    samples = tuple(
        AuditedSample.from_readout(
            readouts[n, :, :4],
            exit_index=int(outcome.exits[n]),
            prediction=int(outcome.predictions[n]),
            scores=None if scored is None else scored.scores[n],
            predictions=None if scored is None else scored.predictions[n],
        )
        for n in range(len(readouts))
    )
    received = msgspec.json.decode(msgspec.json.encode(samples), type=tuple[AuditedSample, ...])
    return AuditToCheck(arrays_of(received), classes, revision, policy)


def with_exits(audit, exits):
    return audit._replace(samples=audit.samples._replace(exits=np.asarray(exits)))


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(FROM_READOUTS), seed=seeds)
def test_decisions_on_the_same_readouts_are_equal_to_the_bit_alone_and_in_batches(kind, seed):
    policy, readouts = make_policy(kind, seed=seed), wide_readouts(logits_of(20, seed))
    for decide in (decide_in_turn, decide_alone):
        samples = audit_of(policy, decide(policy, readouts), readouts).samples
        assert decided(policy, samples.readouts, samples.exits, samples.predictions).all()


@settings(max_examples=150, deadline=None)
@given(kind=kinds, seed=seeds, error=st.sampled_from([0.0, 1e-6, 1e-2, 0.9]), temperature=st.sampled_from([0.3, 1, 4]))
@example(kind="pcee", seed=33, error=0.9, temperature=0.3)
def test_no_audit_is_refused_whose_logits_differ_from_those_of_the_decision_by_rounding(kind, seed, error, temperature):
    policy = make_policy(kind, seed=seed, temperatures=(float(temperature),) * EXITS)
    if policy.reads_probabilities:
        error /= 20  # the error of a score is bounded, not that of the logits
    random = np.random.default_rng(seed)
    logits = logits_of(30, seed) * temperature
    other = logits + error * LOGIT_ERROR * random.uniform(-1, 1, logits.shape)
    outcome = decide_in_turn(policy, wide_readouts(logits / temperature))
    audits = [audit_of(policy, outcome, wide_readouts(other / temperature), classes=CLASSES)]
    assert impossible_audits(audits) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_most_false_exits_are_found_and_the_reason_names_sample_and_exit(kind):
    policy = make_policy(kind, seed=2)
    readouts = wide_readouts(logits_of(300, 5))
    honest = [audit_of(policy, decide_in_turn(policy, readouts[n : n + 1]), readouts[n : n + 1]) for n in range(300)]
    forged = [with_exits(audit, (audit.samples.exits + 1) % EXITS) for audit in honest]
    assert impossible_audits(honest) == {}
    reasons = impossible_audits(forged)
    assert len(reasons) > 150  # the others are near a threshold, or their two first classes are nearly equal
    for place, reason in reasons.items():
        claimed, taken = int(forged[place].samples.exits[0]), int(honest[place].samples.exits[0])
        assert reason.startswith(f"sample 0: under revision 3, exit {claimed}, but")
        assert reason.endswith(f"the policy '{kind}' takes exit {taken}")


@pytest.mark.parametrize("kind", FROM_READOUTS)
def test_a_false_prediction_is_found(kind):
    policy = make_policy(kind, seed=2)
    logits = np.full((4, EXITS, CLASSES), -9.0)
    logits[:, :, 1] = 9.0
    readouts = wide_readouts(logits)
    honest = audit_of(policy, decide_in_turn(policy, readouts), readouts)
    assert (honest.samples.exits < EXITS - 1).all()
    assert impossible_audits([honest]) == {}
    forged = honest.samples.predictions.copy()
    forged[2] = 0
    lie = honest._replace(samples=honest.samples._replace(predictions=forged))
    [reason] = impossible_audits([lie]).values()
    exit_index = honest.samples.exits[2]
    assert reason.startswith(f"sample 2: under revision 3, another prediction at exit {exit_index} than class 1")


def test_a_bin_of_pcee_that_only_rounding_reaches_is_possible():
    """The confidence of the decision was below 0.5, that of the audit is above, where nobody was right."""
    policy = Pcee(temperatures=(1.0, 1.0), thresholds=(0.9,), accuracies=((1.0, 0.0),))
    readouts = wide_readouts(np.log([[[0.5000001, 0.4, 0.0999999], [0.8, 0.1, 0.1]]]))
    audit = audit_of(policy, Decided(np.array([0]), np.array([0]), None), readouts)
    assert not decided(policy, audit.samples.readouts, audit.samples.exits, audit.samples.predictions).any()
    assert impossible_audits([audit]) == {}


def test_each_audit_is_judged_by_its_own_policy_and_classes():
    bold = Confidence(temperatures=(1.0,) * EXITS, thresholds=(0.3,) * (EXITS - 1))
    safe = Confidence(temperatures=(1.0,) * EXITS, thresholds=(None,) * (EXITS - 1))
    readouts = wide_readouts(np.tile([[[5.0, 0.0, 0.0, 0.0]]], (3, EXITS, 1)))
    readouts[:, :, 0] = 2
    early = audit_of(bold, decide_in_turn(bold, readouts), readouts)
    late = audit_of(safe, decide_in_turn(safe, readouts), readouts)
    audits = [
        early,
        early._replace(policy=safe),
        late,
        late._replace(policy=bold),
        early._replace(policy=None),
        early._replace(classes=4),
        early._replace(classes=2),
    ]
    reasons = impossible_audits(audits)
    assert sorted(reasons) == [1, 3, 6]
    assert "model has 2 classes" in reasons[6]
    assert "takes exit 4" in reasons[1]
    assert "takes exit 0" in reasons[3]


def test_a_lie_behind_many_samples_near_a_threshold_is_found():
    policy = Confidence(temperatures=(1.0,) * EXITS, thresholds=(0.5,) * (EXITS - 1))
    near = wide_readouts(np.log(np.tile([[[0.499, 0.3, 0.2, 0.001]]], (250, EXITS, 1))))
    audit = audit_of(policy, Decided(np.zeros(250, int), near[:, 0, 0], None), near)
    assert impossible_audits([audit, audit]) == {}
    forged = audit.samples.readouts.copy()
    forged[240, 0] = [0, 0.26, 0.25, 1.38]
    lie = audit._replace(samples=audit.samples._replace(readouts=forged))
    assert list(impossible_audits([audit, lie])) == [1]
    far = audit.samples.readouts.copy()
    far[240, 0] = [0, 0.35, 0.2, 1.48]
    lie = audit._replace(samples=audit.samples._replace(readouts=far))
    reasons = impossible_audits([audit, lie])
    assert reasons[1].startswith("sample 240: under revision 3, exit 0, but")


def test_a_label_that_is_no_class_of_the_model_is_impossible():
    policy, readouts = make_policy("confidence", seed=1), wide_readouts(logits_of(3, 1))
    audit = audit_of(policy, decide_alone(policy, readouts), readouts, classes=CLASSES)
    known = audit._replace(samples=audit.samples._replace(labels=np.array([-1, CLASSES - 1, 0])))
    wrong = audit._replace(samples=audit.samples._replace(labels=np.array([-1, CLASSES, 0])))
    assert impossible_audits([known, wrong]) == {1: f"label {CLASSES}, but the model has {CLASSES} classes"}
