"""Heartbeats: signed, retained, one per cohort and interval and at each new revision; counters never decrease."""

from datetime import datetime, timedelta, timezone

import pytest
from edgeexit_calibration import register
from edgeexit_calibration.publishing import retained
from edgeexit_calibration.publishing.heartbeats import Heartbeats, heartbeat_filter
from edgeexit_calibration.store.cohorts import add_revision, current_revision, find_cohort
from edgeexit_calibration.store.tables import RegistrationRow
from sqlalchemy import update

from edgeexit.policies import decode_document
from edgeexit.signing import PrivateKey, sign, verify
from edgeexit.wire import (
    HEARTBEAT_TYPE,
    BrokerConfig,
    BrokerSession,
    Heartbeat,
    SessionOptions,
    decode,
    encode,
    heartbeat_topic,
)
from tests.calibration.scenario import COHORT, DELTA, FLEET, RISK, Client, until

KEY = PrivateKey.generate()
NOW = datetime(2025, 1, 1, tzinfo=timezone.utc)


class Clock:
    """A monotonic clock that the test sets."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def cohort(database, bundle):
    return register(database, bundle, fleet=FLEET, cohort=COHORT, risk=RISK, delta=DELTA, user="ada").cohort


@pytest.fixture
def connect(broker, database):
    """Return a function that connects heartbeats with an interval of 300 s to the broker, and their clock."""
    sessions = []

    def start():
        clock = Clock()
        session = BrokerSession(
            BrokerConfig(url=broker.url),
            SessionOptions(client_id=f"h{len(sessions)}", subscriptions=(heartbeat_filter(FLEET),)),
            on_message=lambda delivery: heartbeats.on_message(delivery.topic, delivery.payload),
        )
        heartbeats = Heartbeats(database, session, fleet=FLEET, keys=[KEY], interval_s=300, clock=clock)
        sessions.append(session)
        session.start()
        assert session.wait_connected(5)
        return heartbeats, clock

    yield start
    for session in sessions:
        session.stop()


def sent(client, cohort):
    """Return the heartbeats of a cohort that a client has received."""
    keys = [KEY.public_key()]
    payloads = [payload for payload in client.of(heartbeat_topic(*cohort)) if payload not in {b"", b"other"}]
    return [decode(verify(payload, payload_type=HEARTBEAT_TYPE, keys=keys), Heartbeat) for payload in payloads]


def test_a_heartbeat_is_published_at_once_after_the_interval_and_at_a_new_revision(database, broker, cohort, connect):
    heartbeats, clock = connect()
    client = Client(broker, heartbeat_topic(*cohort))
    for _ in range(3):
        heartbeats.publish(now=NOW)
    until(lambda: len(sent(client, cohort)) == 1)
    clock.now_s += 300
    heartbeats.publish(now=NOW + timedelta(seconds=300))
    until(lambda: len(sent(client, cohort)) == 2)
    with database.writing() as session:
        row = find_cohort(session, cohort)
        document = decode_document(current_revision(session, row.id).document.encode())
        add_revision(
            session, row, document.policy, None, max_latency=None, reason="test", created_by="ada", now=NOW
        )  # fmt: skip
    heartbeats.publish(now=NOW + timedelta(seconds=301))
    until(lambda: len(sent(client, cohort)) == 3)
    first, second, third = sent(client, cohort)
    assert (first.fleet, first.bundle, first.cohort) == cohort
    assert [first.revision, second.revision, third.revision] == [1, 1, 2]
    assert [beat.counter - int(NOW.timestamp()) for beat in (first, second, third)] == [0, 300, 301]
    late = Client(broker, heartbeat_topic(*cohort))
    until(lambda: sent(late, cohort) == [third])  # it is retained
    late.close()
    client.close()


@pytest.mark.parametrize("forgets", [False, True])
def test_the_counter_increases_although_the_clock_was_set_back_and_the_database_was_lost(
    database, broker, cohort, connect, forgets
):
    client = Client(broker, heartbeat_topic(*cohort))
    heartbeats, _ = connect()
    heartbeats.publish(now=NOW)
    until(lambda: sent(client, cohort))
    if forgets:
        with database.writing() as session:
            session.execute(update(RegistrationRow).values(heartbeat=0))
    again, _ = connect()
    until(lambda: not forgets or len(again._received))  # the retained heartbeat
    again.publish(now=datetime(1980, 1, 1, tzinfo=timezone.utc))
    until(lambda: len(sent(client, cohort)) == 2)
    first, second = sent(client, cohort)
    assert second.counter == first.counter + 1
    client.close()


def test_a_heartbeat_that_another_client_replaces_is_published_again_and_a_forged_counter_is_ignored(
    database, broker, cohort, connect, monkeypatch
):
    monkeypatch.setattr(retained, "_REPLACED_PAUSE_S", 0.0)
    heartbeats, _ = connect()
    topic = heartbeat_topic(*cohort)
    client = Client(broker, topic)
    heartbeats.publish(now=NOW)
    until(lambda: len(sent(client, cohort)) == 1)
    forged = Heartbeat(fleet=FLEET, bundle=cohort.bundle, cohort=COHORT, revision=1, counter=2**62)
    client.publish(topic, sign(encode(forged), payload_type=HEARTBEAT_TYPE, keys=[PrivateKey.generate()]), retain=True)

    def is_published_again():
        heartbeats.publish(now=NOW)
        return client.of(topic)[0] in client.of(topic)[1:]

    until(is_published_again)
    assert not heartbeats._seen or max(heartbeats._seen.values()) == int(NOW.timestamp())
    client.close()


def test_a_thief_of_the_key_cannot_exhaust_the_counters(database, broker, cohort, connect, monkeypatch):
    monkeypatch.setattr(retained, "_REPLACED_PAUSE_S", 0.0)
    client = Client(broker, heartbeat_topic(*cohort))
    highest = Heartbeat(fleet=FLEET, bundle=cohort.bundle, cohort=COHORT, revision=1, counter=2**63 - 1)
    stolen = sign(encode(highest), payload_type=HEARTBEAT_TYPE, keys=[KEY])
    client.publish(heartbeat_topic(*cohort), stolen, retain=True)
    until(lambda: len(sent(client, cohort)) == 1)
    heartbeats, clock = connect()
    heartbeats.publish(now=NOW)
    until(lambda: len(sent(client, cohort)) == 2)
    clock.now_s += 300
    heartbeats.publish(now=NOW + timedelta(seconds=300))
    until(lambda: len(sent(client, cohort)) == 3)
    assert [beat.counter - int(NOW.timestamp()) for beat in sent(client, cohort)[1:]] == [0, 300]
    client.close()


def test_the_service_publishes_policies_and_heartbeats_with_every_key(database, bundle, broker, serve, cohort, key):
    client = Client(broker, heartbeat_topic(*cohort), "edgeexit/v1/shop/policy/#")
    serve(heartbeat_interval_s=0.3)
    until(lambda: len(client.of(heartbeat_topic(*cohort))) > 2)
    client.close()
