"""The audit log and the policies: the newest entries, oldest first."""

from datetime import timedelta

import pytest
from edgeexit_calibration import NameLookupError, device_events, events
from edgeexit_calibration.store.cohorts import add_event, find_cohort

from tests.calibration.scenario import FLEET
from tests.calibration.views.filled import ADDRESS, NOW, add_device


@pytest.fixture
def logged(database):
    """Return a database with one event per hour, in turn about a cohort and about each of two devices."""
    with database.writing() as session:
        devices = [add_device(session, name, fleet=fleet) for name, fleet in (("a", FLEET), ("b", "other"))]
        cohort = find_cohort(session, ADDRESS)
        for hour in range(12):
            about = (cohort.id, None) if hour % 3 == 0 else (None, devices[hour % 3 - 1].id)
            kind, now = ("registered" if hour % 3 == 0 else "clone"), NOW + timedelta(hours=hour)
            add_event(session, about[0], kind, {"hour": hour}, actor="x", now=now, device_id=about[1])
    return database


def hours(found):
    return [event.details["hour"] for event in found]


def test_the_newest_events_are_returned_oldest_first(logged):
    assert hours(events(logged, ADDRESS)) == [0, 3, 6, 9]
    assert hours(events(logged, ADDRESS, limit=2)) == [6, 9]
    assert hours(events(logged, ADDRESS, since=NOW + timedelta(hours=6))) == [6, 9]
    assert events(logged, ADDRESS._replace(cohort="unknown")) == []


def test_events_of_devices_are_chosen_by_fleet_and_by_device(logged):
    assert hours(device_events(logged)) == [1, 2, 4, 5, 7, 8, 10, 11]
    assert hours(device_events(logged, limit=3)) == [8, 10, 11]
    assert hours(device_events(logged, fleet="other")) == [2, 5, 8, 11]
    assert hours(device_events(logged, device="a", since=NOW + timedelta(hours=5))) == [7, 10]
    assert {event.device for event in device_events(logged, device="b")} == {"other/s0/b"}
    with pytest.raises(NameLookupError, match="device 'c' is unknown"):
        device_events(logged, device="c")
