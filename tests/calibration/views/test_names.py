"""Names that a user writes: short ones are enough if they are unique, unknown ones are answered with the nearest."""

import pytest
from edgeexit_calibration import NameLookupError
from edgeexit_calibration.store.cohorts import CohortAddress, find_or_add_cohort
from edgeexit_calibration.views.names import (
    check_fleet,
    find_named_cohort,
    find_named_device,
    fleet_names,
    fleet_shards,
)

from tests.calibration.views.filled import add_device


@pytest.fixture
def session(database):
    with database.writing() as writing:
        for fleet, shard, device in (("shop", "s0", "camera-1"), ("shop", "s1", "camera-1"), ("lab", "s0", "camera-2")):
            add_device(writing, device, fleet=fleet, shard=shard)
        find_or_add_cohort(writing, CohortAddress("shop", "b" * 64, "cameras"))
        yield writing


def test_fleets_and_shards_are_found_without_reading_the_devices(session):
    assert list(fleet_shards(session)) == [("lab", "s0"), ("shop", "s0"), ("shop", "s1")]
    assert list(fleet_shards(session, "shop")) == [("shop", "s0"), ("shop", "s1")]
    assert fleet_names(session) == ["lab", "shop"]
    with pytest.raises(NameLookupError, match="fleet 'shpo' is unknown; did you mean shop"):
        check_fleet(session, "shpo")
    check_fleet(session, "lab")


@pytest.mark.parametrize("name", ["camera-2", "s0/camera-2", "lab/s0/camera-2"])
def test_a_device_is_found_by_each_unique_form_of_its_name(session, name):
    assert find_named_device(session, name).name == "lab/s0/camera-2"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("camera-1", "device 'camera-1' is not unique; write one of: shop/s0/camera-1, shop/s1/camera-1"),
        ("camera-3", r"device 'camera-3' is unknown: it has sent nothing yet; did you mean camera-\d or camera-\d"),
        ("s1/camera-2", "device 's1/camera-2' is unknown: it has sent nothing yet; did you mean camera-1"),
        ("x/lab/s0/camera-2", "is unknown"),
        ("zzz", "device 'zzz' is unknown: it has sent nothing yet; see `edgeexit calibrator devices`"),
    ],
)
def test_a_device_that_is_unknown_or_not_unique_is_an_error(session, name, message):
    with pytest.raises(NameLookupError, match=message):
        find_named_device(session, name)


@pytest.mark.parametrize("name", ["lab/cameras", "lab/aaaaaaaaaaaa/cameras"])
def test_a_cohort_is_found_by_each_unique_form_of_its_name(session, name):
    assert find_named_cohort(session, name).fleet == "lab"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cameras", "cohort 'cameras' is not unique; write one of: .*shop/bbbbbbbbbbbb/cameras"),
        ("aaaa/cameras", "is not unique"),
        ("camera", "cohort 'camera' is unknown; did you mean cameras"),
        ("shop/c/cameras", "is unknown"),
        ("x/y/z/cameras", "is unknown"),
    ],
)
def test_a_cohort_that_is_unknown_or_not_unique_is_an_error(session, name, message):
    with pytest.raises(NameLookupError, match=message):
        find_named_cohort(session, name)
    assert find_named_cohort(session, "bbb/cameras").fleet == "shop"
