"""The watcher compares policies by the costs that the devices of each cohort measured."""

from datetime import timedelta

import msgspec
import numpy as np
from edgeexit_calibration import events, register

from edgeexit.policies import simulate_exits
from tests.calibration.profiles import profile_of
from tests.calibration.recalibrate.watching import GOAL, NOW, check_all, ingest, new_watcher, newest_policy, revisions
from tests.calibration.scenario import DEVICE, audits_of, readouts_of, state_of

CHEAP_START, CHEAP_MIDDLE = (1.0, 9.0, 10.0), (8.0, 8.1, 10.0)


def send(database, bundle, label, audits, *, costs=None):
    """Store what a device of a cohort sends, whose name is the label of the cohort."""
    device = DEVICE._replace(device=label)
    ingest(database, msgspec.structs.replace(state_of(bundle.digest), cohort=label), device=device)
    if costs is not None:
        ingest(database, profile_of(bundle.digest, costs), device=device)
    ingest(database, *(msgspec.structs.replace(audit, cohort=label) for audit in audits), device=device)


def test_two_cohorts_with_other_profiles_get_other_thresholds_each_the_cheaper_one_for_itself(database, bundle):
    profiles = {"boards": CHEAP_START, "servers": CHEAP_MIDDLE}
    cohorts = {label: register(database, bundle, cohort=label, **GOAL).cohort for label in profiles}
    for label, costs in profiles.items():
        send(database, bundle, label, [], costs=costs)
    watching = new_watcher(database)
    check_all(watching)
    for number in range(12):
        for label in profiles:
            audits = audits_of(bundle, 500, trust=1.03, first_sequence=5 * number, seed=20 + number)
            send(database, bundle, label, audits)
        check_all(watching)
    readouts = readouts_of(20_000, trust=1.03, seed=99)
    exits = {label: simulate_exits(newest_policy(database, cohort), readouts) for label, cohort in cohorts.items()}
    for label, other in (("boards", "servers"), ("servers", "boards")):
        own = np.array(profiles[label])
        assert own[exits[label]].mean() < 0.99 * own[exits[other]].mean()


def test_costs_that_change_do_not_begin_the_tests_anew(database, bundle):
    cohort = register(database, bundle, cohort="boards", **GOAL).cohort
    watching = new_watcher(database)
    check_all(watching)
    send(database, bundle, "boards", audits_of(bundle, 300, seed=11), costs=CHEAP_START)
    check_all(watching)
    [watched] = watching._watched.values()
    before = watched.state
    assert watched.current.rules.costs == tuple(bundle.costs().cumulative), "the profiles are read every ten minutes"
    check_all(watching, now=NOW + timedelta(minutes=10))
    [watched] = watching._watched.values()
    assert watched.current.rules.costs == CHEAP_START
    assert watched.state is before
    assert revisions(database, cohort) == [1]
    assert [event.kind for event in events(database, cohort)] == ["registered", "costs changed"]
