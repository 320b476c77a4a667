"""Lists of devices: pages in the order of names, with every condition, however many devices meet it."""

import random

import pytest
from edgeexit_calibration import CohortAddress, DeviceFilter, NameLookupError, devices, iterate_devices
from edgeexit_calibration.store.troubles import Trouble
from edgeexit_calibration.views import device_pages, device_views

from tests.calibration.scenario import FLEET
from tests.calibration.views.filled import ADDRESS, DIGEST, add_device


def address(view):
    return CohortAddress(view.fleet, view.bundle, view.cohort)


OTHER = CohortAddress(FLEET, DIGEST, "lab")
CONDITIONS = [
    (DeviceFilter(), lambda _: True),
    (DeviceFilter(shard="s1"), lambda view: view.shard == "s1"),
    (DeviceFilter(prefix="b"), lambda view: view.device.startswith("b")),
    (DeviceFilter(prefix="b%"), lambda _: False),
    (DeviceFilter(cohort=OTHER), lambda view: address(view) == OTHER),
    (DeviceFilter(cohort=OTHER, online=False), lambda view: address(view) == OTHER and not view.online),
    (DeviceFilter(online=True), lambda view: view.online is True),
    (DeviceFilter(revision=2, prefix="A"), lambda view: view.revision == 2 and view.device.startswith("A")),
    (DeviceFilter(trouble=Trouble.LOSSES), lambda view: "losses" in view.troubles),
    (DeviceFilter(trouble=Trouble.LOSSES | Trouble.CLONE, shard="s0"), lambda v: v.shard == "s0" and v.troubles),
    (DeviceFilter(cohort=CohortAddress(FLEET, DIGEST, "unknown")), lambda _: False),
]  # fmt: skip


@pytest.fixture
def filled(database):
    rng = random.Random(1)  # noqa: S311
    with database.writing() as session:
        for index in range(60):
            add_device(
                session,
                f"{'ABab'[index % 4]}{rng.randrange(10**6)}",
                fleet=rng.choice([FLEET, "other"]),
                shard=rng.choice(["s0", "s1", "S1"]),
                cohort=rng.choice(["cameras", "lab", None]),
                revision=rng.randrange(3),
                online=rng.random() < 0.5,
                troubles=rng.choice([0, 0, Trouble.CLONE, Trouble.LOSSES, Trouble.LOSSES | Trouble.CLONE]),
            )
    return database


@pytest.mark.parametrize("max_candidates", [0, 5000], ids=["walk", "candidates"])
@pytest.mark.parametrize(("where", "meets"), CONDITIONS, ids=range(len(CONDITIONS)))
def test_pages_together_are_all_devices_that_meet_the_conditions(filled, monkeypatch, where, meets, max_candidates):
    monkeypatch.setattr(device_pages, "_MAX_CANDIDATES", max_candidates)
    everything = devices(filled)
    assert [view.name for view in everything] == sorted(view.name for view in everything)
    for fleet in (FLEET, None):
        expected = [view for view in everything if fleet in (None, view.fleet) and meets(view)]
        found, after = [], None
        while page := devices(filled, fleet=fleet, where=where, after=after, limit=7):
            assert len(page) <= 7
            found += page
            after = page[-1].name
        assert found == expected


def test_all_devices_are_yielded_page_by_page(filled, monkeypatch):
    monkeypatch.setattr(device_views, "PAGE", 7)
    assert list(iterate_devices(filled)) == devices(filled, limit=100)


def test_a_page_continues_after_a_device_that_was_removed_meanwhile(database):
    with database.writing() as session:
        for name in ("a", "c"):
            add_device(session, name)
    assert [view.device for view in devices(database, after=f"{FLEET}/s0/b")] == ["c"]
    with pytest.raises(NameLookupError, match="device 'b' must be written as FLEET/SHARD/DEVICE"):
        devices(database, after="b")


def test_a_device_without_a_state_is_listed_with_what_is_known(database):
    with database.writing() as session:
        add_device(session, "new", cohort=None, troubles=Trouble.NOT_STORED)
    [view] = devices(database)
    assert (view.online, view.cohort, view.troubles) == (None, None, ("not stored",))
    assert devices(database, where=DeviceFilter(cohort=ADDRESS)) == []
