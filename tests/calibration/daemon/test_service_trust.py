"""The whole service: which revisions it believes, and whose audits and reports count."""

from datetime import datetime, timezone

import pytest
from edgeexit_calibration import (
    CohortAddress,
    accept_revision,
    approve_device,
    clear_device_clone,
    devices,
    disagreement,
    events,
    exit_mix,
    open_database,
    policy_history,
    register,
    revoke_device,
)
from edgeexit_calibration.store.open_buckets import device_buckets
from edgeexit_calibration.store.tables import AuditedSampleRow, CohortRow, DeviceRow
from sqlalchemy import func, select

from edgeexit.policies.document import LatencyBound
from edgeexit.signing import public_key_text
from edgeexit.wire import policy_topic, up_topic
from tests.calibration.database_kinds import ON_SQLITE
from tests.calibration.scenario import (
    COHORT,
    DELTA,
    DEVICE,
    FLEET,
    IDENTITY,
    RISK,
    acknowledged,
    audits_of,
    report_of,
    state_of,
    until,
)

GOAL = {"fleet": FLEET, "cohort": COHORT, "risk": RISK, "delta": DELTA, "user": "ada"}
ACKS = f"edgeexit/v1/{FLEET}/+/+/down/ack"


def now():
    return datetime.now(timezone.utc)


def numbers(database, cohort):
    return [policy.revision for policy in policy_history(database, cohort)]


def claimed(database):
    with database.reading() as session:
        return session.scalar(select(func.max(CohortRow.claimed_revision)))


@pytest.fixture
def second(tmp_path):
    """Return another database, as after the first one was lost."""
    opened = open_database(str(tmp_path / "second.sqlite"))
    yield opened
    opened.close()


@ON_SQLITE
def test_after_the_database_was_lost_the_policies_at_the_broker_number_the_next_ones(
    database, second, bundle, broker, serve, connect
):
    cohort = register(database, bundle, **GOAL).cohort
    assert register(database, bundle, **GOAL, max_latency=LatencyBound(quantile=0.9, ms=50)).revision == 2
    client = connect(policy_topic(*cohort))
    _, stop = serve()
    until(lambda: client.of(policy_topic(*cohort)))
    stop()
    assert register(second, bundle, **GOAL).revision == 1
    serve(store=second)
    until(lambda: numbers(second, cohort) == [1, 3])
    until(lambda: policy_history(second, cohort)[-1].published_at is not None)
    assert [event.kind for event in events(second, cohort)] == ["registered", "renumbered", "published"]
    assert claimed(second) == 0


@ON_SQLITE
def test_after_database_and_broker_were_lost_a_user_accepts_what_the_devices_run(database, bundle, serve, connect):
    cohort = register(database, bundle, **GOAL).cohort
    client = connect(ACKS)
    serve()
    client.publish(up_topic(DEVICE, "state"), state_of(bundle.digest, revision=5), retain=True)
    client.publish(up_topic(DEVICE, "report"), report_of(bundle.digest, sequence=1, revision=5))
    until(lambda: acknowledged(client) == [1])
    assert (claimed(database), numbers(database, cohort)) == (5, [1])
    accept_revision(database, COHORT, user="ada", now=now())
    until(lambda: numbers(database, cohort) == [1, 6])


def test_a_hostile_device_that_claims_a_revision_renumbers_nothing(database, bundle, serve, connect):
    cohort = register(database, bundle, **GOAL).cohort
    client = connect(ACKS)
    serve(heartbeat_interval_s=0.2)
    client.publish(up_topic(DEVICE, "state"), state_of(bundle.digest, revision=2**31), retain=True)
    for sequence in range(1, 4):
        client.publish(up_topic(DEVICE, "report"), report_of(bundle.digest, sequence=sequence, revision=2**31))
    until(lambda: sorted(acknowledged(client)) == [1, 2, 3])
    until(lambda: policy_history(database, cohort)[0].published_at is not None)
    assert (claimed(database), numbers(database, cohort)) == (2**31, [1])


def stored_samples(database):
    """Return the numbers of stored audited samples: all, and those that count."""
    with database.reading() as session:
        total = session.scalar(select(func.count()).select_from(AuditedSampleRow))
        return total, session.scalar(select(func.count()).select_from(AuditedSampleRow).filter_by(counted=True))


def counted(database, bundle):
    """Return the samples in the figures of the cohort: of reports, and of audits."""
    address = CohortAddress(FLEET, bundle.digest, COHORT)
    mix, audited = exit_mix(database, address), disagreement(database, address)
    return (0 if mix is None else mix.samples), (0 if audited is None else audited.samples)


def count_device_buckets(database):
    with database.reading() as session:
        return len(list(device_buckets(session, session.scalars(select(DeviceRow.id)).all())))


def test_a_device_with_a_clone_is_stored_and_shown_and_counts_again_when_the_clone_is_cleared(
    database, bundle, serve, connect
):
    register(database, bundle, **GOAL)
    client = connect(ACKS)
    serve()
    audits = audits_of(bundle, 40, size=10)

    def send(sequence, audit, start="0" * 16):
        client.publish(up_topic(DEVICE, "report"), report_of(bundle.digest, sequence=sequence, start=start))
        client.publish(up_topic(DEVICE, "audit"), audit)
        until(lambda: {sequence, audit.sequence} <= set(acknowledged(client)))

    send(100, audits[0])
    assert counted(database, bundle) == (10, 10)
    for start, uptime_s in (("0" * 16, 1.0), ("1" * 16, 1.0), ("0" * 16, 2.0)):
        client.publish(up_topic(DEVICE, "state"), state_of(bundle.digest, start=start, uptime_s=uptime_s))
    until(lambda: devices(database)[0].clone_seen_at is not None)
    send(101, audits[1], start="1" * 16)
    assert counted(database, bundle) == (10, 10)  # what has counted before stays
    assert stored_samples(database) == (20, 10)
    assert count_device_buckets(database) > 0
    clear_device_clone(database, DEVICE.device, user="ada", now=now())
    send(102, audits[2], start="2" * 16)
    assert counted(database, bundle) == (20, 20)
    assert stored_samples(database) == (30, 20)


def test_a_device_that_waits_for_an_approval_is_stored_and_not_counted(database, bundle, serve, connect):
    register(database, bundle, **GOAL)
    client = connect(ACKS)
    serve(enrolment="approve")
    key = public_key_text(IDENTITY.public_key())
    client.publish(up_topic(DEVICE, "state"), state_of(bundle.digest, key=key), retain=True)
    client.publish(up_topic(DEVICE, "report"), report_of(bundle.digest, sequence=1))
    until(lambda: acknowledged(client) == [1])
    assert counted(database, bundle) == (0, 0)
    assert count_device_buckets(database) == 1
    approve_device(database, DEVICE.device, None, user="ada", now=now())
    client.publish(up_topic(DEVICE, "report"), report_of(bundle.digest, sequence=2, counts=(6, 3, 2)))
    client.publish(up_topic(DEVICE, "audit"), audits_of(bundle, 10, first_sequence=3)[0])
    until(lambda: acknowledged(client) == [1, 2, 3])
    assert counted(database, bundle) == (1, 10)  # from now on: the increment of one sample
    revoke_device(database, DEVICE.device, user="ada", now=now())
    client.publish(up_topic(DEVICE, "report"), report_of(bundle.digest, sequence=4, counts=(9, 3, 2)))
    until(lambda: devices(database)[0].drops.get("revoked") == 1)
    assert counted(database, bundle) == (1, 10)
