"""The costs of a cohort are the medians of the profiles of its devices that count, if there are enough."""

from datetime import timedelta

import msgspec
import pytest
from edgeexit_calibration import events, register, revoke_device
from edgeexit_calibration.recalibrate.measured_costs import MeasuredCosts
from edgeexit_calibration.store.cohorts import find_cohort
from edgeexit_calibration.store.tables import ProfileRow, RegistrationRow
from edgeexit_calibration.views.field_costs import FieldCosts, costs_in_use, field_costs, median_costs
from sqlalchemy import update

from tests.calibration.profiles import profile_of
from tests.calibration.recalibrate.watching import GOAL, NOW, ingest
from tests.calibration.scenario import COHORT, DEVICE, state_of

COSTS = (1.0, 2.0, 4.0)
SLOW = (3.0, 4.0, 8.0)


@pytest.fixture
def cohort(database, bundle):
    return register(database, bundle, cohort=COHORT, **GOAL).cohort


def named(number):
    return DEVICE._replace(device=f"camera-{number}")


def measure(database, cohort, *profiles, now=NOW):
    """Store the states of as many devices, and their profiles; None: the device has none."""
    for number, profile in enumerate(profiles):
        messages = [state_of(cohort.bundle), *([] if profile is None else [profile])]
        ingest(database, *messages, device=named(number), now=now)


def found(database, cohort, *, enrolment="open", now=NOW):
    with database.reading() as session:
        return field_costs(session, find_cohort(session, cohort), 3, enrolment, now=now)


@pytest.mark.parametrize(("devices", "needed"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (6, 3), (1000, 3)])
def test_profiles_of_three_devices_or_of_half_of_a_small_cohort_are_enough(devices, needed):
    assert median_costs([COSTS] * (needed - 1), devices=devices) is None
    assert median_costs([COSTS] * needed, devices=devices) == FieldCosts(COSTS, needed)


def test_the_cost_of_each_exit_is_the_median_which_one_forged_profile_does_not_move():
    measured = [(1.0, 2.0, 4.0), (1.5, 2.5, 5.0), (1e-6, 2e-6, 1e9)]
    assert median_costs(measured, devices=3) == FieldCosts((1.0, 2.0, 5.0), 3)


def test_the_newest_profile_of_each_device_counts(database, cohort):
    assert found(database, cohort) is None
    measure(database, cohort, profile_of(cohort.bundle, COSTS))
    assert found(database, cohort) == FieldCosts(COSTS, 1)
    measure(database, cohort, profile_of(cohort.bundle, SLOW))
    assert found(database, cohort) == FieldCosts(SLOW, 1)


@pytest.mark.parametrize(
    "change",
    [{"invalid": ("the machine was throttled",)}, {"batch": 2}, {"stages": ()}, {"bundle": "e" * 64}],
    ids=["invalid", "batches", "no stage", "other bundle"],
)
def test_a_profile_that_is_not_usable_as_costs_is_left_out(database, cohort, change):
    good, bad = profile_of(cohort.bundle, SLOW), msgspec.structs.replace(profile_of(cohort.bundle, COSTS), **change)
    measure(database, cohort, bad)
    assert found(database, cohort) is None
    measure(database, cohort, bad, good)
    assert found(database, cohort) == FieldCosts(SLOW, 1)


@pytest.mark.parametrize("costs", [(1.0, 1.0, 4.0), (0.0, 2.0, 4.0), (2.0, 1.0, 4.0), (1.0, 2.0, 1.7e308 * 10)])
def test_costs_that_do_not_increase_or_are_not_finite_are_left_out(database, cohort, costs):
    measure(database, cohort, profile_of(cohort.bundle, costs))
    assert found(database, cohort) is None


def test_a_profile_of_another_version_is_left_out(database, cohort):
    measure(database, cohort, profile_of(cohort.bundle, COSTS))
    with database.writing() as session:
        session.execute(update(ProfileRow).values(content='{"latency": 3}'))
    assert found(database, cohort) is None


def test_devices_that_do_not_count_or_were_not_seen_lately_are_left_out(database, cohort):
    measure(database, cohort, profile_of(cohort.bundle, COSTS), profile_of(cohort.bundle, SLOW))
    assert found(database, cohort).devices == 2
    assert found(database, cohort, enrolment="approve") is None
    revoke_device(database, named(0).device, user="ada", now=NOW)
    assert found(database, cohort) == FieldCosts(SLOW, 1)
    assert found(database, cohort, now=NOW + timedelta(days=31)) is None


def used(database, cohort):
    with database.reading() as session:
        return costs_in_use(session.get_one(RegistrationRow, find_cohort(session, cohort).id))


def refresh(database, cohort, measuring, *, now=NOW):
    with database.reading() as session:
        cohort_id = find_cohort(session, cohort).id
    measuring.refresh(cohort_id, now=now)
    return used(database, cohort)


def test_the_registered_costs_are_used_until_devices_have_measured_and_after_they_have_gone(database, bundle, cohort):
    measuring = MeasuredCosts(database, "open")
    registered = refresh(database, cohort, measuring)
    assert (registered.unit, registered.cumulative, registered.devices) == ("macs", tuple(bundle.costs().cumulative), 0)
    measure(database, cohort, profile_of(cohort.bundle, COSTS))
    assert refresh(database, cohort, measuring, now=NOW + timedelta(minutes=9)) == registered, "they are read seldom"
    field = refresh(database, cohort, measuring, now=NOW + timedelta(minutes=10))
    assert (field.unit, field.cumulative, field.devices) == ("ms", COSTS, 1)
    assert refresh(database, cohort, MeasuredCosts(database, "open"), now=NOW + timedelta(days=31)) == registered
    log = [event.details for event in events(database, cohort) if event.kind == "costs changed"]
    assert [(one["cost_unit"], tuple(one["costs"]), one["devices"]) for one in log] == [
        ("ms", COSTS, 1),
        ("macs", registered.cumulative, 0),
    ]


def test_only_a_notable_change_of_the_costs_is_an_event(database, cohort):
    for number, (factor, kinds) in enumerate([(1, 1), (1.05, 1), (1.2, 2)]):
        measure(database, cohort, profile_of(cohort.bundle, [factor * cost for cost in COSTS]))
        field = refresh(database, cohort, MeasuredCosts(database, "open"), now=NOW + timedelta(hours=number))
        assert field.cumulative == pytest.approx([factor * cost for cost in COSTS], rel=1e-5)
        assert [event.kind for event in events(database, cohort)].count("costs changed") == kinds


def test_a_new_registration_keeps_the_field_costs(database, bundle, cohort):
    measure(database, cohort, profile_of(cohort.bundle, COSTS))
    refresh(database, cohort, MeasuredCosts(database, "open"))
    register(database, bundle, cohort=COHORT, **(GOAL | {"risk": 0.02}))
    assert used(database, cohort).cumulative == COSTS
