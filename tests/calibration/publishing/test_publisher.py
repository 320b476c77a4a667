"""The publisher publishes a policy again after another client replaced or cleared it, or the broker refused it."""

import time
from datetime import datetime, timezone

import pytest
from edgeexit_calibration import events, policy_history, register
from edgeexit_calibration.publishing import retained
from edgeexit_calibration.publishing.publisher import Publisher, policy_filter

from edgeexit.signing import generate_key, load_private_key
from edgeexit.wire import BrokerConfig, BrokerSession, SessionOptions, policy_topic
from tests.calibration.scenario import COHORT, DELTA, FLEET, RISK, Client, RefusingBroker, until

GOAL = {"fleet": FLEET, "cohort": COHORT, "risk": RISK, "delta": DELTA, "user": "ada"}


@pytest.fixture
def key(tmp_path):
    generate_key(tmp_path / "calibrator.key")
    return load_private_key(tmp_path / "calibrator.key")


@pytest.fixture
def connect(database, key):
    """Return a function that connects a publisher to the broker at a URL."""
    sessions = []

    def to(url):
        session = BrokerSession(
            BrokerConfig(url=url),
            SessionOptions(client_id="publisher", subscriptions=(policy_filter(FLEET),)),
            on_message=lambda delivery: publisher.on_message(delivery.topic, delivery.payload),
        )
        publisher = Publisher(database, session, fleet=FLEET, keys=[key])
        sessions.append(session)
        session.start()
        assert session.wait_connected(5)
        return publisher

    yield to
    for session in sessions:
        session.stop()


def publish_until(publisher, *, condition=lambda: False, limit_s=15.0):
    """Publish repeatedly, as the service does, until a condition holds; return whether it held within the time."""
    deadline = time.monotonic() + limit_s
    while not (done := condition()) and time.monotonic() < deadline:
        publisher.publish(now=datetime.now(timezone.utc))
        time.sleep(0.02)
    return done


@pytest.mark.parametrize("content", [b"", b"from another client"])
def test_a_policy_that_another_client_clears_or_replaces_is_published_again(
    database, bundle, broker, connect, monkeypatch, caplog, content
):
    monkeypatch.setattr(retained, "_REPLACED_PAUSE_S", 0.3)
    topic = policy_topic(*register(database, bundle, **GOAL).cohort)
    client = Client(broker, topic)
    publisher = connect(broker.url)
    assert publish_until(publisher, condition=lambda: client.of(topic))
    ours = client.of(topic)[0]
    publish_until(publisher, limit_s=0.5)
    for times in (1, 2):
        client._client.publish(topic, content, qos=1, retain=True).wait_for_publish(5)
        assert publish_until(publisher, condition=lambda times=times: client.of(topic).count(ours) > times)
    publish_until(publisher, limit_s=0.5)
    assert client.of(topic) == [ours, content, ours, content, ours]  # the publisher does not react to its own echo
    assert len([record for record in caplog.records if "publish there" in record.getMessage()]) == 1
    late = Client(broker, topic)
    until(lambda: late.of(topic) == [ours])
    late.close()
    client.close()


def test_against_another_publisher_the_policy_is_published_at_a_limited_rate(
    database, bundle, broker, connect, monkeypatch
):
    monkeypatch.setattr(retained, "_REPLACED_PAUSE_S", 0.5)
    topic = policy_topic(*register(database, bundle, **GOAL).cohort)
    client = Client(broker, topic)
    publisher = connect(broker.url)
    assert publish_until(publisher, condition=lambda: client.of(topic))
    deadline = time.monotonic() + 1.2
    while time.monotonic() < deadline:
        client._client.publish(topic, b"other", qos=1, retain=True).wait_for_publish(5)
        publish_until(publisher, limit_s=0.05)
    assert 2 <= sum(payload != b"other" for payload in client.of(topic)) <= 4
    client.close()


def test_a_message_from_before_the_publication_is_ignored(database, bundle, connect, caplog):
    topic = policy_topic(*register(database, bundle, **GOAL).cohort)
    broker = RefusingBroker()
    broker.refuses = False
    publisher = connect(broker.url)
    publisher.publish(now=datetime.now(timezone.utc))
    publisher.on_message(topic, b"an older policy, sent before ours arrived")
    publish_until(publisher, limit_s=0.3)
    assert broker.published == 1
    assert "publish there" not in caplog.text
    broker.close()


def test_a_refused_policy_is_not_recorded_as_published(database, bundle, connect, monkeypatch, caplog):
    monkeypatch.setattr(retained, "_REFUSED_PAUSE_S", 0.4)
    cohort = register(database, bundle, **GOAL).cohort
    acl = RefusingBroker()
    publisher = connect(acl.url)
    publish_until(publisher, limit_s=1.0)
    assert 2 <= acl.published <= 3
    assert policy_history(database, cohort)[0].published_at is None
    assert [event.kind for event in events(database, cohort)] == ["registered"]
    warnings = [r.getMessage() for r in caplog.records if r.name == "edgeexit_calibration.publishing.retained"]
    assert len(warnings) == 1
    assert "ACL" in warnings[0]
    acl.refuses = False
    assert publish_until(publisher, condition=lambda: policy_history(database, cohort)[0].published_at is not None)
    assert [event.kind for event in events(database, cohort)] == ["registered", "published"]
    acl.close()
