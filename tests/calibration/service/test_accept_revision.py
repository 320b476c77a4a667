"""Accepting a revision that only devices claim."""

from datetime import datetime, timezone

import pytest
from edgeexit_calibration import NameLookupError, RevisionError, accept_revision, register
from edgeexit_calibration.ingest.uplink import Uplink

from edgeexit.policies.document import MAX_REVISION
from tests.calibration.scenario import COHORT, DELTA, DEVICE, FLEET, RISK, state_of, store_uplinks

NOW = datetime(2025, 1, 1, tzinfo=timezone.utc)
GOAL = {"fleet": FLEET, "cohort": COHORT, "risk": RISK, "delta": DELTA, "user": "ada"}


def claim(database, bundle, revision):
    with database.writing() as session:
        store_uplinks(session, [Uplink(DEVICE, state_of(bundle.digest, revision=revision))], now=NOW)


def accept(database, *arguments):
    return accept_revision(database, *arguments, user="ada", now=NOW)


def test_before_the_registration_the_first_number_is_above_the_accepted_one(database, bundle):
    claim(database, bundle, 5)
    assert accept(database, f"{FLEET}/{bundle.digest[:12]}/{COHORT}").current is None
    assert register(database, bundle, **GOAL).revision == 6


def test_without_a_claim_there_is_nothing_to_accept_but_a_number_can_be_named(database, bundle):
    register(database, bundle, **GOAL)
    with pytest.raises(RevisionError, match="no device claims a revision"):
        accept(database, COHORT)
    assert accept(database, COHORT, 40).accepted == 40
    with pytest.raises(RevisionError, match="revision 39 must be at least 40"):
        accept(database, COHORT, 39)
    with pytest.raises(RevisionError, match=f"below {MAX_REVISION}"):
        accept(database, COHORT, MAX_REVISION)
    with pytest.raises(NameLookupError, match="cohort 'nowhere' is unknown"):
        accept(database, "nowhere")


def test_a_number_that_is_far_ahead_must_be_named(database, bundle):
    register(database, bundle, **GOAL)
    claim(database, bundle, 2**31)
    with pytest.raises(RevisionError, match="--revision"):
        accept(database, COHORT)
    assert accept(database, COHORT, 3).accepted == 3
