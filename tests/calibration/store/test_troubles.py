"""The flags of devices that may need attention."""

from datetime import datetime, timedelta, timezone

import pytest
from edgeexit_calibration.store.maintenance import maintain
from edgeexit_calibration.store.retention import Retention
from edgeexit_calibration.store.tables import DeviceRow, ShardRow
from edgeexit_calibration.store.troubles import SHOWN_FOR, Trouble, troubles_of, troubles_of_row
from sqlalchemy import select

from edgeexit.wire import Rejection, Reversion
from tests.calibration.scenario import FLEET, state_of

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
DIGEST = "a" * 64
CLEAN = {
    "key": "ours", "offered_key": None, "revoked_at": None, "clone_seen_at": None, "set_aside_at": None,
    "comparison": None, "losses_at": None, "drops": {}, "last_drop_at": None, "now": NOW,
}  # fmt: skip


def flags(state=None, **values):
    return troubles_of(state, **{**CLEAN, **values})


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({}, Trouble(0)),
        ({"unconfirmed": True}, Trouble.UNCONFIRMED),
        ({"unconfirmed": True, "online": False}, Trouble(0)),
        ({"reverted": Reversion(revision=3, reason="no exit fires")}, Trouble.REVERTED),
        ({"rejected": Rejection(reason="wrong signature")}, Trouble.REJECTED),
        ({"problems": ("the disk is full",), "unconfirmed": True}, Trouble.PROBLEM | Trouble.UNCONFIRMED),
    ],
)
def test_a_state_sets_the_flags_of_what_the_device_reports(state, expected):
    assert flags(state_of(DIGEST, **state)) == expected


def test_keys_set_flags_unless_the_device_is_revoked():
    assert flags(offered_key="other") == Trouble.KEY_CHANGED
    assert flags(key=None, offered_key="other") == 0  # shown, and no audit has arrived
    assert flags(key=None, offered_key="other", drops={"key not approved": 1}) == Trouble.NOT_ENROLLED
    assert flags(offered_key="other", revoked_at=NOW) == 0


def test_kinds_that_end_by_time_have_a_flag_for_a_day():
    for hours, expected in ((23, Trouble.LOSSES | Trouble.NOT_STORED), (24, Trouble(0))):
        then = NOW - timedelta(hours=hours)
        assert flags(losses_at=then, drops={"invalid": 1}, last_drop_at=then) == expected
    assert flags(drops={"revoked": 1}, last_drop_at=NOW) == 0


def test_a_clone_has_its_flag_until_a_user_clears_it():
    assert flags(clone_seen_at=NOW - timedelta(days=9)) == Trouble.CLONE


def test_a_device_far_from_its_cohort_is_set_aside_or_not():
    comparison = {"audits": 150, "loss": 0.4, "others": 0.03}
    assert flags(comparison=comparison) == Trouble.FAR_FROM_COHORT
    assert flags(comparison=comparison, set_aside_at=NOW) == flags(set_aside_at=NOW) == Trouble.SET_ASIDE


def test_flags_that_have_ended_are_cleared_and_the_others_stay(database):
    old, recent = NOW - SHOWN_FOR, NOW - SHOWN_FOR / 2
    with database.writing() as session:
        for name, time in (("old", old), ("recent", recent)):
            row = DeviceRow(
                fleet=FLEET, shard="s0", device=name, first_seen=old, last_seen=old, key="a", offered_key="b"
            )
            row.losses_at = row.last_drop_at = time
            row.drops = {"invalid": 1}
            row.troubles = troubles_of_row(row, None, now=old)
            session.add(row)
        session.add(ShardRow(fleet=FLEET, shard="s0", first_seen=old))
    maintain(database, Retention(), now=NOW)
    with database.reading() as session:
        stored = dict(session.execute(select(DeviceRow.device, DeviceRow.troubles)).all())
    assert stored == {"old": Trouble.KEY_CHANGED, "recent": Trouble.KEY_CHANGED | Trouble.LOSSES | Trouble.NOT_STORED}


def test_a_flag_has_the_name_that_people_read():
    assert [trouble.kind for trouble in (Trouble.CLONE, Trouble.KEY_CHANGED)] == ["clone", "key changed"]
