"""The policies at the broker stay as the database has them: replaced, cleared, or refused, they go out again."""

import time
from datetime import datetime, timezone

import pytest
from edgeexit_calibration import events, policy_history, publish, register

from edgeexit.signing import generate_key, load_private_key
from edgeexit.wire import BrokerConfig, BrokerSession, policy_topic
from tests.calibration.scenario import COHORT, DELTA, FLEET, RISK, Client, RefusingBroker, until

GOAL = {"fleet": FLEET, "cohort": COHORT, "risk": RISK, "delta": DELTA, "who": "ada"}


@pytest.fixture
def key(tmp_path):
    generate_key(tmp_path / "calibrator.key")
    return load_private_key(tmp_path / "calibrator.key")


@pytest.fixture
def publishing(database, key):
    """Connect a publisher to a broker; returns it with its session, and takes note what the broker says."""
    sessions = []

    def to(url):
        session = BrokerSession(
            BrokerConfig(url=url),
            client_id="publisher",
            subscriptions=[publish.policy_filter(FLEET)],
            on_message=lambda delivery: publisher.notice(delivery.topic, delivery.payload),
            on_refused=lambda topic: publisher.refused(topic),  # noqa: PLW0108 - there is no publisher yet
        )
        publisher = publish.Publisher(database, session, fleet=FLEET, key=key)
        sessions.append(session)
        session.start()
        assert session.wait_connected(5)
        return publisher

    yield to
    for session in sessions:
        session.stop()


def go_on(publisher, *, until_it=lambda: False, for_s=15.0):
    """Publish what is due, again and again, as the service does; return whether it came to what was waited for."""
    deadline = time.monotonic() + for_s
    while not (done := until_it()) and time.monotonic() < deadline:
        publisher.publish(now=datetime.now(timezone.utc))
        time.sleep(0.02)
    return done


@pytest.mark.parametrize("content", [b"", b"somebody else's"])
def test_a_policy_that_somebody_clears_or_replaces_comes_back(
    database, bundle, broker, publishing, monkeypatch, caplog, content
):
    monkeypatch.setattr(publish, "_REPLACED_PAUSE_S", 0.3)
    topic = policy_topic(*register(database, bundle, **GOAL).cohort)
    client = Client(broker, topic)
    publisher = publishing(broker.url)
    assert go_on(publisher, until_it=lambda: client.of(topic))
    ours = client.of(topic)[0]
    go_on(publisher, for_s=0.5)
    for times in (1, 2):
        client._client.publish(topic, content, qos=1, retain=True).wait_for_publish(5)
        assert go_on(publisher, until_it=lambda times=times: client.of(topic).count(ours) > times)
    go_on(publisher, for_s=0.5)
    assert client.of(topic) == [ours, content, ours, content, ours]  # and no loop with its own echo
    assert len([record for record in caplog.records if "publish there" in record.getMessage()]) == 1
    late = Client(broker, topic)
    until(lambda: late.of(topic) == [ours])
    late.close()
    client.close()


def test_against_another_publisher_it_goes_out_at_a_slow_pace(database, bundle, broker, publishing, monkeypatch):
    monkeypatch.setattr(publish, "_REPLACED_PAUSE_S", 0.5)
    topic = policy_topic(*register(database, bundle, **GOAL).cohort)
    client = Client(broker, topic)
    publisher = publishing(broker.url)
    assert go_on(publisher, until_it=lambda: client.of(topic))
    deadline = time.monotonic() + 1.2
    while time.monotonic() < deadline:
        client._client.publish(topic, b"other", qos=1, retain=True).wait_for_publish(5)
        go_on(publisher, for_s=0.05)
    assert 2 <= sum(payload != b"other" for payload in client.of(topic)) <= 4
    client.close()


def test_what_the_broker_had_before_is_no_interference(database, bundle, publishing, caplog):
    topic = policy_topic(*register(database, bundle, **GOAL).cohort)
    broker = RefusingBroker()
    broker.refuses = False
    publisher = publishing(broker.url)
    publisher.publish(now=datetime.now(timezone.utc))
    publisher.notice(topic, b"an older policy, sent before ours arrived")
    go_on(publisher, for_s=0.3)
    assert broker.published == 1
    assert "publish there" not in caplog.text
    broker.close()


def test_a_policy_that_the_broker_refuses_is_not_published(database, bundle, publishing, monkeypatch, caplog):
    monkeypatch.setattr(publish, "_REFUSED_PAUSE_S", 0.4)
    monkeypatch.setattr(publish, "_ANSWER_S", 0.2)
    cohort = register(database, bundle, **GOAL).cohort
    acl = RefusingBroker()
    publisher = publishing(acl.url)
    go_on(publisher, for_s=1.0)
    assert 2 <= acl.published <= 3
    assert policy_history(database, cohort)[0].published_at is None
    assert [event.what for event in events(database, cohort)] == ["registered"]
    warnings = [r.getMessage() for r in caplog.records if r.name == "edgeexit_calibration.publish"]
    assert len(warnings) == 1
    assert "ACL" in warnings[0]
    acl.refuses = False
    assert go_on(publisher, until_it=lambda: policy_history(database, cohort)[0].published_at is not None)
    assert [event.what for event in events(database, cohort)] == ["registered", "published"]
    acl.close()
