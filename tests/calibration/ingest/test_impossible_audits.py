"""Audits that no honest device can have sent: refused for good, counted against their device, and nothing stored."""

import threading
from datetime import datetime, timezone

import msgspec
import pytest
from edgeexit_calibration import devices, register, status
from edgeexit_calibration.ingest.intake import Intake
from edgeexit_calibration.ingest.known_cohorts import KnownCohort
from edgeexit_calibration.ingest.known_policies import KnownPolicies
from edgeexit_calibration.ingest.rules import IngestRules
from edgeexit_calibration.store.cohorts import CohortAddress, add_revision, find_cohort, locked_cohort
from edgeexit_calibration.store.tables import AuditedSampleRow, AuditTotalRow, PolicyRevisionRow
from sqlalchemy import event, select, update

from edgeexit.agent.auditor import Auditor
from edgeexit.bundle import Bundle
from edgeexit.policies import KINDS, PolicyDocument
from edgeexit.policies.confidence import Confidence
from edgeexit.runtime import Runner
from edgeexit.signing import PrivateKey
from edgeexit.wire import Ack, Audit, Delivery, decode, up_topic
from tests.bundles import INPUT, make_bundle, make_samples
from tests.calibration.scenario import COHORT, DELTA, DEVICE, EXITS, FLEET, RISK, START, audits_of, payload_of
from tests.runtime.policies_of_every_kind import policies_on

NOW = datetime(2025, 6, 1, tzinfo=timezone.utc)
CLASSES = 5
OTHER = DEVICE._replace(device="camera-2")


class Service:
    """An intake and what it has sent to the devices."""

    def __init__(self, database):
        self._sent = []
        self._intake = Intake(database, self._sent.extend, fleet=FLEET, rules=IngestRules())

    def store(self, *messages):
        """Store (device, audit) pairs as one batch; return {number: refusal, or None if it is acknowledged}."""
        self._sent.clear()
        topics = [(up_topic(device, "audit"), audit) for device, audit in messages]
        deliveries = [Delivery(topic=topic, payload=payload_of(topic, audit), retain=False) for topic, audit in topics]
        assert self._intake.store(deliveries, threading.Event())
        self._intake.store([], threading.Event())  # writes the counts of drops
        answers = {}
        for _, payload in self._sent:
            ack = decode(payload, Ack)
            answers |= dict.fromkeys(ack.sequences)
            answers |= {refusal.sequence: refusal for refusal in ack.refused}
        return answers


@pytest.fixture
def service(database, bundle):
    register(database, bundle, fleet=FLEET, cohort=COHORT, risk=RISK, delta=DELTA, user="ada")
    return Service(database)


def revise(database, bundle, policy, *, cohort=COHORT):
    """Issue a policy as the next revision of a cohort; return its number."""
    with database.writing() as session:
        row = locked_cohort(session, find_cohort(session, CohortAddress(FLEET, bundle.digest, cohort)).id)
        return add_revision(session, row, policy, None, max_latency=None, reason="test", created_by="ada", now=NOW)


def stored_samples(database):
    with database.reading() as session:
        totals = sum(session.scalars(select(AuditTotalRow.samples)))
        assert totals == len(session.scalars(select(AuditedSampleRow.id)).all())
        return totals


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("model") / "bundle", exits=4, classes=CLASSES)


def inputs_of(count, *, seed=1):
    """Return inputs [count, 8] of which the model is sure, so that few scores are near a threshold."""
    return {INPUT: 5 * make_samples(count, seed)[INPUT]}


def audits_of_an_agent(bundle: Bundle, policy, *, revision, cohort, first_sequence):
    """Return the audits of samples that ran alone, in batches, and together with other requests."""
    emitted = []
    with Runner(bundle) as runner:
        auditor = Auditor(runner, fraction=1.0, exits=4, emit=lambda _, samples: emitted.append(samples))
        auditor.start()
        for number, size in enumerate((1, 7, 64, 1)):
            inputs = inputs_of(size, seed=number)
            drawn = auditor.draw(inputs, size)
            result = (
                runner.infer_async(inputs, policy=policy).result()
                if number % 2
                else runner.infer(inputs, policy=policy)
            )
            auditor.submit(drawn, result, revision=revision, policy=policy)
        auditor.stop()
    return [
        Audit(
            start=START,
            sequence=first_sequence + number,
            bundle=bundle.digest,
            cohort=cohort,
            revision=revision,
            samples=samples,
        )
        for number, samples in enumerate(emitted)
    ]


def test_the_audits_of_an_agent_are_stored_under_every_kind_of_policy(database, model):
    with Runner(model) as runner:
        readouts = runner.infer_every_exit(inputs_of(200), probabilities=True).readouts
    service, audits, answers = Service(database), {}, {}
    for number, (kind, policy) in enumerate(policies_on(readouts).items()):
        model.write_policy(msgspec.structs.replace(_document(model), policy=policy))
        register(database, model, fleet=FLEET, cohort=kind, risk=RISK, delta=DELTA, user="ada")
        audits[kind] = audits_of_an_agent(model, policy, revision=1, cohort=kind, first_sequence=100 * number)
        answers |= service.store(*[(DEVICE, audit) for audit in audits[kind]])
    assert set(audits) == set(KINDS)
    assert {number: refusal for number, refusal in answers.items() if refusal is not None} == {}
    assert stored_samples(database) == len(KINDS) * 73
    assert devices(database)[0].drops == {}
    taken = {sample.exit for found in audits.values() for audit in found for sample in audit.samples}
    assert taken == set(range(4))

    for kind, found in audits.items():  # and each of them is checked: the same samples with other exits are refused
        forged = [
            msgspec.structs.replace(
                audit,
                sequence=audit.sequence + 50,
                samples=tuple(_with_exit(one, (one.exit + 1) % 4) for one in audit.samples),
            )
            for audit in found
        ]
        refusals = service.store(*[(DEVICE, audit) for audit in forged]).values()
        assert all(refusal.final and f"policy '{kind}'" in refusal.reason for refusal in refusals)
    assert stored_samples(database) == len(KINDS) * 73


def _document(bundle):
    return PolicyDocument(
        bundle=bundle.digest,
        revision=0,
        policy=Confidence(temperatures=(1.0,) * 4, thresholds=(None,) * 3),
    )


def _with_exit(sample, exit_index):
    return msgspec.structs.replace(sample, exit=exit_index, prediction=None)


def changed(audit, place, **fields):
    """Return an audit in which one sample has other fields."""
    samples = list(audit.samples)
    samples[place] = msgspec.structs.replace(samples[place], **fields)
    return msgspec.structs.replace(audit, samples=tuple(samples))


LIES = {
    "sample 3, exit 1: p2 0.7 is above p1 0.25": {"p1": (0.9, 0.25, 0.9), "p2": (0.05, 0.7, 0.05)},
    "sample 3, exit 0: p1 0.9 and p2 0.5 have a sum above 1": {"p1": (0.9,) * 3, "p2": (0.5,) * 3},
    "sample 3, exit 2: entropy 3 is impossible with p1 1 and p2 0": {
        "p1": (0.99, 0.99, 1.0),
        "p2": (0.01, 0.01, 0.0),
        "entropy": (0.056, 0.056, 3.0),
    },
    "sample 3, exit 0: entropy 0 is impossible with p1 0.5 and p2 0.25": {
        "p1": (0.5,) * 3,
        "p2": (0.25,) * 3,
        "entropy": (0.0,) * 3,
    },
    "sample 3: under revision 1, exit 0, but on its readouts the policy 'confidence' takes exit 2": {
        "exit": 0,
        "p1": (0.3,) * 3,
        "p2": (0.3,) * 3,
        "entropy": (1.3,) * 3,
    },
    "sample 3: under revision 1, exit 2, but on its readouts the policy 'confidence' takes exit 0": {
        "exit": 2,
        "p1": (0.999,) * 3,
        "p2": (0.001,) * 3,
        "entropy": (0.008,) * 3,
    },
    "sample 3: under revision 1, another prediction at exit 0 than class 1, which": {
        "exit": 0,
        "prediction": 2,
        "top1": (1, 1, 2),
        "p1": (0.999,) * 3,
        "p2": (0.001,) * 3,
        "entropy": (0.008,) * 3,
    },
}


def test_each_lie_is_refused_and_counted_and_the_other_audits_of_the_batch_are_stored(database, bundle, service):
    honest = audits_of(bundle, 20, size=5)
    lies = [
        changed(audit, 3, **fields)
        for audit, fields in zip(
            audits_of(bundle, 5 * len(LIES), size=5, first_sequence=10), LIES.values(), strict=True
        )
    ]
    answers = service.store(*[(OTHER, audit) for audit in honest], *[(DEVICE, lie) for lie in lies])
    refusals = [answers[lie.sequence] for lie in lies]
    assert all(refusal.final for refusal in refusals)
    for refusal, reason in zip(refusals, LIES, strict=True):
        assert refusal.reason.startswith(reason)
    assert [answers[audit.sequence] for audit in honest] == [None] * 4
    assert stored_samples(database) == 20
    liar, other = devices(database)
    assert (liar.drops, liar.audited_samples) == ({"impossible audit": len(LIES)}, 0)
    assert (other.drops, other.audited_samples) == ({}, 20)
    [found] = [one for one in status(database, now=datetime.now(timezone.utc)).attention if one.kind == "not stored"]
    assert found.subject.endswith(DEVICE.device)
    assert f"{len(LIES)} impossible audit; the last one: impossible audit: sample 3: under" in found.text
    assert service.store((DEVICE, honest[0])) == {0: None}  # a device may have been repaired


def test_the_number_of_classes_is_that_of_the_newest_policy(database, model):
    service = Service(database)
    with Runner(model) as runner:
        readouts = runner.infer_every_exit(inputs_of(200), probabilities=True).readouts
    policies = policies_on(readouts)
    model.write_policy(msgspec.structs.replace(_document(model), policy=policies["entropy"]))
    register(database, model, fleet=FLEET, cohort=COHORT, risk=RISK, delta=DELTA, user="ada")
    [audit] = audits_of_an_agent(model, policies["entropy"], revision=0, cohort=COHORT, first_sequence=1)
    top1 = (CLASSES, *audit.samples[7].top1[1:])
    lie = msgspec.structs.replace(changed(audit, 7, top1=top1), sequence=2)
    answers = service.store((DEVICE, audit), (DEVICE, lie))
    assert answers[1] is None
    assert answers[2].reason == f"sample 7, exit 0: class {CLASSES}, but the model has {CLASSES} classes"


def test_each_audit_is_judged_by_the_policy_of_the_revision_that_it_names(database, bundle, service):
    bold = Confidence(temperatures=(1.0,) * EXITS, thresholds=(0.0,) * (EXITS - 1))
    assert revise(database, bundle, bold) == 2
    first = audits_of(bundle, 50)[0]
    second = audits_of(bundle, 50, policy=bold, revision=2, first_sequence=1)[0]
    swapped = (
        msgspec.structs.replace(first, revision=2, sequence=2),
        msgspec.structs.replace(second, revision=1, sequence=3),
    )
    answers = service.store(*[(DEVICE, audit) for audit in (first, second, *swapped)])
    assert [number for number, refusal in answers.items() if refusal is None] == [0, 1]
    assert "under revision 2" in answers[2].reason
    assert "under revision 1" in answers[3].reason


@pytest.mark.parametrize("revision", [0, 2, 2**53])
def test_the_decisions_under_a_revision_that_the_database_has_not_issued_are_not_judged(
    database, bundle, service, revision
):
    [audit] = audits_of(bundle, 10, revision=revision)
    audit = msgspec.structs.replace(audit, samples=tuple(_with_exit(one, (one.exit + 1) % 3) for one in audit.samples))
    assert service.store((DEVICE, audit)) == {0: None}
    lie = msgspec.structs.replace(changed(audit, 3, p1=(0.1,) * 3, p2=(0.4,) * 3), sequence=1)
    assert service.store((DEVICE, lie))[1].final


def test_an_audit_of_another_key_counts_as_such_and_not_as_impossible(database, bundle, service):
    """Nobody can accuse a device in its name."""
    honest, lie = audits_of(bundle, 10, size=5)
    assert service.store((DEVICE, honest)) == {0: None}
    lie = changed(lie, 3, p1=(0.1,) * 3, p2=(0.4,) * 3)
    topic = up_topic(DEVICE, "audit")
    service.store((DEVICE, payload_of(topic, lie, key=PrivateKey.generate())))
    assert devices(database)[0].drops == {"key not approved": 1}


def test_a_policy_that_this_process_cannot_decode_stops_no_audit(database, bundle, service, caplog):
    with database.writing() as session:
        session.execute(update(PolicyRevisionRow).values(document='{"policy": {"kind": "private"}}'))
    [audit] = audits_of(bundle, 10)
    assert service.store((DEVICE, audit)) == {0: None}
    assert "decisions under revision 1 are not checked" in caplog.text


def test_a_policy_is_read_once(database, bundle, service):
    with database.reading() as session:
        row = find_cohort(session, CohortAddress(FLEET, bundle.digest, COHORT))
        cohort, known = KnownCohort(row.id, newest=3, exits=EXITS, task="classification", claimed=0), KnownPolicies()
        statements = []
        event.listen(database.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
        found = [known.find(session, cohort, revision) for revision in (0, 1, 1, 2, 2, 4)]
        assert [policy is not None for policy in found] == [False, True, True, False, False, False]
        assert len(statements) == 2
        known.forget()
        assert known.find(session, cohort, 1) == bundle.policy().policy
        assert len(statements) == 3
