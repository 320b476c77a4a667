"""Two running agents with one name are recognised; restarts, redelivered or retained states, and wills are none."""

from datetime import datetime, timedelta, timezone

from edgeexit_calibration import device_events, devices
from edgeexit_calibration.ingest.clones import see_start
from edgeexit_calibration.ingest.uplink import Uplink
from hypothesis import given
from hypothesis import strategies as st

from tests.calibration.scenario import DEVICE, report_of, state_of, store_uplinks

NOW = datetime(2025, 1, 1, tzinfo=timezone.utc)
DIGEST = "e" * 64
A, B = "a" * 16, "b" * 16


def clones_of(states):
    """Return the clones that a sequence of (start, uptime) shows."""
    starts, found = {}, []
    for start, uptime_s in states:
        starts, clones = see_start(starts, start, uptime_s)
        found += [clones] if clones else []
    return found


@given(lives=st.lists(st.lists(st.floats(0, 1e6), min_size=1, max_size=5), min_size=1, max_size=12), data=st.data())
def test_restarts_and_redelivered_states_show_no_clone(lives, data):
    """After a reconnect of the calibrator, the broker delivers the states again from some point on, in their order."""
    sent = [(f"{number:016x}", uptime_s) for number, life in enumerate(lives) for uptime_s in sorted(life)]
    delivered, position = [], 0
    while position < len(sent):
        end = data.draw(st.integers(position + 1, len(sent)))
        delivered += sent[data.draw(st.integers(max(0, position - 6), position)) : end]
        position = end
    assert clones_of(delivered) == []


@given(uptimes_s=st.lists(st.floats(0, 1e6), min_size=2, max_size=6, unique=True), first_s=st.floats(0, 10))
def test_two_running_agents_are_recognised_when_the_first_one_is_seen_again(uptimes_s, first_s):
    mine = sorted(uptimes_s)
    states = [(A, mine[0]), (B, first_s)]
    assert clones_of(states) == []
    assert clones_of([*states, (A, mine[1])]) == [(B, A)]
    both = [*states, (A, mine[1]), (B, first_s + 1)]
    assert clones_of(both) == [(B, A), (A, B)]


def test_the_starts_that_are_remembered_are_bounded():
    starts = {}
    for number in range(100):
        starts, _ = see_start(starts, f"{number:016x}", 1.0)
    assert len(starts) == 8


def ingest(database, *messages, now=NOW, retained=False):
    with database.writing() as session:
        store_uplinks(session, [Uplink(DEVICE, message, None, retained) for message in messages], now=now)


def test_only_live_states_show_a_clone(database):
    ingest(database, state_of(DIGEST, start=A, uptime_s=5.0))
    ingest(database, state_of(DIGEST, start=B, uptime_s=1.0))
    ingest(database, report_of(DIGEST, sequence=1, start=A))  # from the outbox, sent by B
    ingest(database, state_of(DIGEST, start=A, uptime_s=9.0), retained=True)
    ingest(database, state_of(DIGEST, start=A, uptime_s=9.0, online=False))  # the will of an old connection
    assert devices(database)[0].clone_seen_at is None
    assert device_events(database) == []
    ingest(database, state_of(DIGEST, start=A, uptime_s=9.0))
    assert devices(database)[0].clone_starts == (B, A)


def test_a_clone_is_one_event_per_episode(database):
    for round_ in range(5):
        now = NOW + timedelta(hours=round_)
        ingest(database, state_of(DIGEST, start=A, uptime_s=10.0 * round_ + 1), now=now)
        ingest(database, state_of(DIGEST, start=B, uptime_s=10.0 * round_ + 2), now=now)
    assert [event.kind for event in device_events(database)] == ["clone"]
    assert devices(database)[0].clone_seen_at == NOW + timedelta(hours=4)
    ingest(database, state_of(DIGEST, start=A, uptime_s=1e6), now=NOW + timedelta(days=9))
    assert [event.kind for event in device_events(database)] == ["clone", "clone"]
