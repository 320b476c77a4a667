"""Devices that are far from their cohort, in the database: set aside, shown, taken back, and what users decide."""

from datetime import timedelta

import msgspec
import pytest
from edgeexit_calibration import (
    DeviceError,
    device_events,
    devices,
    events,
    register,
    set_device_aside,
    status,
    take_device_back,
)
from edgeexit_calibration.recalibrate import watcher
from edgeexit_calibration.recalibrate.device_comparison import FarDevice
from edgeexit_calibration.recalibrate.found_devices import devices_set_aside, store_found, take_back_found
from edgeexit_calibration.recalibrate.policy_changes import store_change
from edgeexit_calibration.store.tables import CohortRow, DeviceRow
from edgeexit_calibration.views.counted_devices import number_of_counted
from sqlalchemy import select

from edgeexit.wire import DeviceAddress
from tests.calibration.recalibrate.watching import GOAL, NOW, check_all, ingest, new_watcher
from tests.calibration.scenario import COHORT, FLEET, audits_of, state_of

BY = {"user": "ada", "now": NOW}


def addresses(count):
    return [DeviceAddress(FLEET, "s0", f"camera-{number:02}") for number in range(count)]


@pytest.fixture
def fleet(database, bundle):
    """Return a function that adds devices of a registered cohort, and the id of each."""
    cohort = register(database, bundle, cohort=COHORT, **GOAL).cohort

    def add(count):
        for address in addresses(count):
            ingest(database, state_of(bundle.digest), device=address)
        with database.reading() as session:
            ids = {row.device: row.id for row in session.scalars(select(DeviceRow))}
            return cohort, session.scalars(select(CohortRow.id)).one(), [ids[one.device] for one in addresses(count)]

    return add


def far(*ids):
    return [FarDevice(device=device, audits=150, loss=0.4, others=0.03) for device in ids]


def aside(database, cohort_id):
    with database.reading() as session:
        return devices_set_aside(session, cohort_id)


def kinds(database):
    return {
        item.subject.rpartition("/")[2]: item
        for item in status(database, now=NOW).attention
        if "camera" in item.subject
    }


def test_one_of_twenty_devices_is_set_aside_and_shown_and_the_others_are_shown(database, fleet):
    cohort, cohort_id, ids = fleet(20)
    store_found(database, cohort_id, far(ids[3], ids[5]), "open", now=NOW)
    assert aside(database, cohort_id) == (ids[3],)
    shown = kinds(database)
    assert (shown["camera-03"].kind, shown["camera-05"].kind) == ("set aside", "far from cohort")
    assert "by calibrator: the loss of its 150 audits is 40.0 %, that of the others 3.0 %" in shown["camera-03"].text
    assert "edgeexit calibrator set-aside shop/s0/camera-03 --back" in shown["camera-03"].advice
    assert [(event.kind, event.actor) for event in events(database, cohort)][1:] == [("set aside", "calibrator")]
    [view] = [view for view in devices(database) if view.device == "camera-03"]
    assert (view.set_aside_at, view.comparison["loss"], view.troubles) == (NOW, 0.4, ("set aside",))


def test_in_a_small_cohort_none_is_set_aside(database, fleet):
    _, cohort_id, ids = fleet(19)
    store_found(database, cohort_id, far(ids[0]), "open", now=NOW)
    assert aside(database, cohort_id) == ()
    assert kinds(database)["camera-00"].kind == "far from cohort"


def test_devices_are_set_aside_once_a_day(database, fleet):
    _, cohort_id, ids = fleet(40)
    store_found(database, cohort_id, far(ids[0]), "open", now=NOW)
    store_found(database, cohort_id, far(ids[1]), "open", now=NOW + timedelta(hours=23))
    assert aside(database, cohort_id) == (ids[0],)
    store_found(database, cohort_id, far(ids[1], ids[2]), "open", now=NOW + timedelta(hours=25))
    assert aside(database, cohort_id) == (ids[0], ids[1])


def test_an_alarm_takes_back_what_was_found_and_not_what_a_user_has_set_aside(database, fleet):
    _, cohort_id, ids = fleet(20)
    store_found(database, cohort_id, far(ids[0], ids[1]), "open", now=NOW)
    set_device_aside(database, "camera-02", **BY)
    with database.writing() as session:
        take_back_found(session, cohort_id, now=NOW)
    assert aside(database, cohort_id) == (ids[2],)
    assert [item.kind for item in kinds(database).values()] == ["set aside"]
    assert [event.kind for event in device_events(database)].count("taken back") == 1


def test_what_a_user_has_taken_back_is_not_set_aside_again(database, fleet):
    _, cohort_id, ids = fleet(20)
    store_found(database, cohort_id, far(ids[0]), "open", now=NOW)
    take_device_back(database, "camera-00", **BY)
    store_found(database, cohort_id, far(ids[0]), "open", now=NOW + timedelta(days=2))
    assert aside(database, cohort_id) == ()
    assert kinds(database) == {}


@pytest.mark.parametrize("by", ["calibrator", "ada"])
def test_a_device_that_names_another_cohort_stays_set_aside_in_its_own_and_counts_in_the_other(
    database, bundle, fleet, by
):
    """Else it could make all tests of its cohort begin anew, as often as it changes its state."""
    cohort, cohort_id, ids = fleet(20)
    if by == "ada":
        set_device_aside(database, "camera-00", **BY)
    else:
        store_found(database, cohort_id, far(ids[0]), "open", now=NOW)
    moved = msgspec.structs.replace(state_of(bundle.digest, uptime_s=2.0), cohort="elsewhere")
    ingest(database, moved, device=addresses(1)[0])
    assert aside(database, cohort_id) == (ids[0],)
    with database.reading() as session:
        other = session.scalars(select(CohortRow.id).where(CohortRow.id != cohort_id)).one()
        assert number_of_counted(session, other, "open", now=NOW, limit=10) == 1
    assert aside(database, other) == ()
    take_device_back(database, "camera-00", **BY)
    assert aside(database, cohort_id) == ()
    assert [(event.kind, event.actor) for event in events(database, cohort)][-1] == ("taken back", "ada")


def test_at_least_half_of_the_devices_count(database, fleet):
    fleet(4)
    for name in ("camera-00", "camera-01"):
        set_device_aside(database, name, **BY)
    with pytest.raises(DeviceError, match="2 of the 4 devices of its cohort are, and at least half must count"):
        set_device_aside(database, "camera-02", **BY)
    with pytest.raises(DeviceError, match="was already set aside by ada"):
        set_device_aside(database, "camera-00", **BY)
    with pytest.raises(DeviceError, match="is not set aside; its audits count"):
        take_device_back(database, "camera-03", **BY)


def test_a_later_message_of_the_device_changes_nothing(database, bundle, fleet):
    _, cohort_id, ids = fleet(20)
    set_device_aside(database, "camera-00", **BY)
    ingest(database, state_of(bundle.digest, uptime_s=2.0, online=False), device=addresses(1)[0])
    assert kinds(database)["camera-00"].kind == "set aside"
    assert aside(database, cohort_id) == (ids[0],)


def test_a_device_with_many_losses_is_found_from_its_audits_and_the_others_keep_their_policy(database, bundle, fleet):
    cohort, cohort_id, ids = fleet(20)
    watching = new_watcher(database)
    check_all(watching)
    for sequence in range(12):
        for number, address in enumerate(addresses(20)):
            trust = 0.2 if number == 7 else 1.0
            messages = audits_of(bundle, 12, trust=trust, seed=100 * sequence + number, first_sequence=sequence)
            ingest(database, *messages, device=address)
    check_all(watching)
    assert aside(database, cohort_id) == (ids[7],)
    [watched] = watching._watched.values()
    before = watched.state.monitor.samples
    ingest(database, *audits_of(bundle, 12, seed=4, first_sequence=40), device=addresses(20)[8])
    ingest(database, *audits_of(bundle, 200, trust=0.0, seed=5, first_sequence=50), device=addresses(20)[7])
    check_all(watching)
    assert watched.state.set_aside == (ids[7],)
    assert watched.state.monitor.samples == before + 12, "the monitor goes on"
    assert watched.state.last > 12 * 12 * 20
    assert "risk exceeded" not in [event.kind for event in events(database, cohort)]


def test_an_alarm_takes_back_what_was_found_in_the_transaction_that_stores_its_policy(
    database, bundle, fleet, monkeypatch
):
    cohort, cohort_id, ids = fleet(20)
    watching = new_watcher(database)
    check_all(watching)
    store_found(database, cohort_id, far(ids[3]), "open", now=NOW)
    for number in (0, 1, 2):
        ingest(database, *audits_of(bundle, 200, trust=0.2, seed=number), device=addresses(20)[number])
    monkeypatch.setattr(watching, "_store_found", lambda *_: None)

    def stop_after(*arguments, **options):
        store_change(*arguments, **options)
        raise RuntimeError("the process ends right after it has stored the policy")

    monkeypatch.setattr(watcher, "store_change", stop_after)
    check_all(watching)
    assert "risk exceeded" in [event.kind for event in events(database, cohort)]
    assert aside(database, cohort_id) == ()
