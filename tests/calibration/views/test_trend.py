"""The trend of a cohort and of a device: sums of buckets, never finer than what is stored."""

from datetime import datetime, timedelta, timezone

import pytest
from edgeexit_calibration import Retention, exit_mix, maintain, trend
from edgeexit_calibration.store.tables import CohortBucketRow, DeviceBucketRow
from edgeexit_calibration.views.trend import allowed_step_s

from edgeexit.errors import ConfigError
from tests.calibration.views.filled import ADDRESS, NOW, add_device, counts_at

DAY = timedelta(days=1)
NOON_S = int(NOW.timestamp())


def add_buckets(database, *buckets, revision=1, writer="", counts=(5, 3, 2), **options):
    """Add buckets (width_s, begin relative to noon in s) to a cohort and one device of it."""
    with database.writing() as session:
        device = add_device(session, f"camera-{writer}{revision}", revision=revision)
        for width_s, begin_s in buckets:
            values = {
                "width_s": width_s, "begin_s": NOON_S + begin_s, "revision": revision,
                "cohort_id": device.cohort_id, "counts": counts_at(counts, **options),
            }  # fmt: skip
            session.add(CohortBucketRow(writer=writer, **values))
            session.add(DeviceBucketRow(device_id=device.id, **values))
        return device.name


def shape(found):
    """Return begin relative to noon in s, span and samples of each point."""
    return [(int(point.begin.timestamp()) - NOON_S, point.span_s, point.samples) for point in found.points]


def test_buckets_are_summed_over_steps_writers_and_revisions(database):
    add_buckets(database, (900, -900), (900, 0), (900, 900), writer="s0")
    add_buckets(database, (900, 900), writer="s1", revision=2, counts=(0, 0, 7), failed=4)
    found = trend(database, ADDRESS, since=NOW - DAY, until=NOW + DAY, step_s=3600)
    assert shape(found) == [(-3600, 3600, 10), (0, 3600, 27)]
    assert found.points[1].exited == (10, 6, 11)
    assert found.points[1].failed == 4
    assert sum(found.points[1].rates) == pytest.approx(1)
    assert not found.is_coarser
    only = trend(database, ADDRESS, since=NOW - DAY, until=NOW + DAY, step_s=3600, revision=2)
    assert shape(only) == [(0, 3600, 7)]
    assert found.exits == ("0", "1", "2")  # not registered


def test_a_point_is_as_long_as_the_buckets_of_its_time_and_contains_the_shorter_ones(database):
    add_buckets(database, (86400, -12 * 3600 - 86400), (3600, -7200), (900, -5400), (900, 0))
    found = trend(database, ADDRESS, since=NOW - 10 * DAY, until=NOW + DAY, step_s=900)
    assert shape(found) == [(-12 * 3600 - 86400, 86400, 10), (-7200, 3600, 20), (0, 900, 10)]
    assert found.is_coarser


def test_points_outside_the_span_are_left_out_and_one_that_overlaps_its_begin_is_not(database):
    add_buckets(database, (900, -1800), (900, -900), (900, 0), (900, 900))
    found = trend(database, ADDRESS, since=NOW - timedelta(minutes=5), until=NOW + timedelta(minutes=15), step_s=900)
    assert shape(found) == [(-900, 900, 10), (0, 900, 10)]


def test_a_device_has_a_trend_of_its_own(database):
    add_buckets(database, (900, 0), writer="s0")
    device = add_buckets(database, (900, 900), writer="s1", counts=(1, 1, 1))
    found = trend(database, device, since=NOW - DAY, until=NOW + DAY, step_s=900)
    assert shape(found) == [(900, 900, 3)]
    assert found.cohort == ADDRESS


def test_totals_are_the_same_after_buckets_were_merged(database):
    begins = [(900, -age_s // 900 * 900) for age_s in range(0, 500 * 86400, 86400 * 7 + 5000)]
    name = add_buckets(database, *begins, failed=1)
    add_buckets(database, *begins[::2], writer="s1", counts=(1, 2, 3))
    span = {"since": NOW - 600 * DAY, "until": NOW + DAY, "step_s": 86400}

    def totals():
        trends = trend(database, ADDRESS, **span), trend(database, name, **span)
        sums = [(sum(p.samples for p in one.points), sum(p.failed for p in one.points)) for one in trends]
        return sums, exit_mix(database, ADDRESS), exit_mix(database, ADDRESS, revision=1)

    before = totals()
    result = maintain(database, Retention(device_days_days=1000), now=NOW)
    assert result.merged_buckets > len(begins)
    assert totals() == before


def test_latencies_are_estimated_per_exit_and_in_all(database):
    add_buckets(database, (900, 0), counts=(99, 0, 0), latency_bin=0)  # below 0.014 ms
    add_buckets(database, (900, 0), counts=(0, 0, 1), latency_bin=20, revision=2)  # 10.2 to 14.5 ms
    [point] = trend(database, ADDRESS, since=NOW - DAY, until=NOW + DAY).points
    assert point.latency.p50_ms < 0.0142
    assert 0.0142 >= point.latency.p99_ms > point.latency.p90_ms
    assert point.latency.mean_ms == pytest.approx(0.13, rel=0.1)
    assert 10.2 < point.exit_latency[2].p50_ms < 14.5
    assert point.exit_latency[1] is None


def test_an_unknown_cohort_and_a_device_without_a_state_have_no_points(database):
    with database.writing() as session:
        add_device(session, "new", cohort=None)
    for subject in ("new", ADDRESS):
        assert trend(database, subject, since=NOW - DAY, until=NOW).points == ()


@pytest.mark.parametrize(
    ("step_s", "allowed"), [(1, 900), (900, 900), (901, 1800), (5 * 3600, 21600), (86399, 86400), (90000, 172800)]
)
def test_a_step_is_rounded_up_to_one_of_full_buckets(step_s, allowed):
    assert allowed_step_s(step_s) == allowed


def test_a_span_that_ends_before_it_begins_or_has_too_many_points_is_an_error(database):
    with pytest.raises(ConfigError, match="since 2026-06-01 12:00 must be before until 2026-06-01 12:00"):
        trend(database, ADDRESS, since=NOW, until=NOW)
    with pytest.raises(ConfigError, match="a step of 900 s gives more than 10000 points; choose a longer step"):
        trend(database, ADDRESS, since=datetime(2020, 1, 1, tzinfo=timezone.utc), until=NOW, step_s=900)
