"""Registration: the bundle's policy becomes revision 1; a second registration changes the risk or adds a revision."""

from datetime import datetime, timezone

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from edgeexit_calibration import cohorts, events, policy_history, register
from edgeexit_calibration.store.cohorts import add_revision, current_revision, find_cohort
from edgeexit_calibration.store.tables import PolicyRevisionRow
from sqlalchemy import select

from edgeexit.bundle import Bundle
from edgeexit.errors import BundleError, FittingError, MessageError
from edgeexit.latency import LatencyProfile, StageProfile, summarise
from edgeexit.policies import AuditRule, decode_document, encode_document
from edgeexit.policies import registry as policy_registry
from edgeexit.policies.document import PAYLOAD_TYPE, LatencyBound, PolicyDocument, Scope
from edgeexit.policies.eenet import Eenet
from edgeexit.signing import sign
from edgeexit.wire import MAX_BYTES
from tests.bundles import make_bundle
from tests.calibration.scenario import COHORT, DELTA, FLEET, RISK, fitted_bundle
from tests.fitting.new_kind import Scaled

NOW = datetime(2025, 1, 1, tzinfo=timezone.utc)
GOAL = {"fleet": FLEET, "cohort": COHORT, "risk": RISK, "delta": DELTA, "user": "ada"}


def test_the_first_revision_is_the_policy_in_the_bundle(database, bundle):
    registered = register(database, bundle, **GOAL)
    assert (registered.revision, registered.is_new_revision) == (1, True)
    [policy] = policy_history(database, registered.cohort)
    shipped = bundle.policy()
    assert policy.thresholds == shipped.policy.thresholds
    assert policy.certificate == shipped.certificate
    assert (policy.revision, policy.created_by, policy.published_at) == (1, "ada", None)
    [cohort] = cohorts(database)
    assert (cohort.fleet, cohort.bundle, cohort.cohort) == registered.cohort
    assert (cohort.risk, cohort.delta, cohort.exits) == (RISK, DELTA, ("e0", "e1", "e2"))


def test_the_costs_come_from_the_bundle(database, bundle):
    registered = register(database, bundle, **GOAL)
    [event] = events(database, registered.cohort)
    unit, costs, _ = bundle.costs()
    assert (event.details["cost_unit"], event.details["costs"]) == (unit, list(costs))


def test_another_risk_does_not_add_a_revision(database, bundle):
    register(database, bundle, **GOAL)
    again = register(database, bundle, **(GOAL | {"risk": 0.02, "user": "bob"}))
    assert (again.revision, again.is_new_revision) == (1, False)
    [cohort] = cohorts(database)
    assert (cohort.risk, cohort.revision) == (0.02, 1)
    log = events(database, again.cohort)
    assert [(event.actor, event.kind, event.details["risk"]) for event in log] == [
        ("ada", "registered", RISK),
        ("bob", "registered", 0.02),
    ]


def test_what_a_registration_does_not_name_stays(database, bundle):
    """So a budget or a loss can be registered without loosening the risk."""
    unnamed = {name: GOAL[name] for name in ("fleet", "cohort", "user")}
    first = register(database, bundle, **unnamed)
    assert (first.risk, first.delta, first.loss) == (0.05, 0.1, "disagreement")
    register(database, bundle, **unnamed, risk=0.02, delta=0.2, loss="regret")
    again = register(database, bundle, **unnamed)
    assert (again.risk, again.delta, again.loss) == (0.02, 0.2, "regret")
    [cohort] = cohorts(database)
    assert (cohort.risk, cohort.delta, cohort.loss) == (0.02, 0.2, "regret")


def test_a_bundle_with_a_new_policy_adds_a_revision(database, tmp_path):
    bundle = fitted_bundle(tmp_path / "bundle")
    register(database, bundle, **GOAL)
    shipped = bundle.policy()
    bundle.write_policy(
        msgspec.structs.replace(shipped, policy=msgspec.structs.replace(shipped.policy, thresholds=(0.99, 0.99)))
    )
    again = register(database, Bundle.open(bundle.path), **GOAL)
    assert (again.revision, again.is_new_revision) == (2, True)
    assert [policy.thresholds for policy in policy_history(database, again.cohort)][1] == (0.99, 0.99)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"fleet": "a/b"}, MessageError),
        ({"cohort": ""}, MessageError),
        ({"risk": 0.0}, FittingError),
        ({"delta": 1.0}, FittingError),
    ],
)
def test_an_invalid_risk_or_name_is_an_error_and_stores_nothing(database, bundle, change, error):
    with pytest.raises(error):
        register(database, bundle, **(GOAL | change))
    assert cohorts(database) == []


@pytest.mark.parametrize(("classes", "fits"), [(9_000, True), (20_000, False)])
def test_a_policy_must_fit_into_a_message(database, tmp_path, classes, fits):
    """Weights of EENet take 10 bytes per class and early exit."""
    large = make_bundle(tmp_path / "bundle", classes=classes)
    weights = Eenet(
        temperatures=(1.0,) * 3,
        thresholds=(0.5, 0.5),
        class_weights=((-0.012345,) * classes,) * 2,
        statistic_weights=((1.0, 0.0), (1.0, 0.0, 0.0)),
    )
    large.write_policy(PolicyDocument(bundle=large.digest, revision=0, policy=weights))
    shipped = large.policy()
    assert shipped is not None
    assert shipped.policy == weights  # fits into the bundle
    if not fits:
        with pytest.raises(BundleError, match="but a message to a device holds at most 195840"):
            register(database, large, **GOAL)
        assert cohorts(database) == []
        return
    registered = register(database, large, **GOAL)
    document = PolicyDocument(
        bundle=large.digest, revision=2**53, policy=weights, scope=Scope(fleet="f" * 64, cohort="c" * 64)
    )
    key = Ed25519PrivateKey.generate()
    assert len(sign(encode_document(document), payload_type=PAYLOAD_TYPE, keys=[key])) <= MAX_BYTES
    assert registered.policy == "eenet"


def test_a_bundle_without_a_policy_is_an_error_that_names_edgeexit_fit(database, tmp_path):
    with pytest.raises(BundleError, match="edgeexit fit"):
        register(database, make_bundle(tmp_path / "bundle"), **GOAL)


@pytest.mark.parametrize("task", ["segmentation", "tagging"])
def test_a_bundle_that_predicts_maps_is_registered_with_its_task(database, bundle, task):
    assert register(database, bundle, **{**GOAL, "cohort": "classes"}).policy == "confidence"
    replace, shape = msgspec.structs.replace, ("batch", 4, "height", "width")
    stages = tuple(replace(stage, exit=replace(stage.exit, shape=shape)) for stage in bundle.manifest.stages)
    manifest = replace(bundle.manifest, task=task, stages=stages)
    register(database, Bundle(bundle.path, manifest, bundle.digest), **GOAL)
    assert {view.cohort: view.task for view in cohorts(database)} == {"classes": "classification", COHORT: task}


def test_a_policy_without_a_fitting_kind_can_be_registered(database, tmp_path, monkeypatch):
    bundle = fitted_bundle(tmp_path / "bundle")
    monkeypatch.setitem(policy_registry._classes, "scaled", Scaled)
    policy = Scaled(temperatures=(1.0,) * 3, thresholds=(0.5, 0.5), factors=(0.9, 0.95, 1.0))
    bundle.write_policy(msgspec.structs.replace(bundle.policy(), policy=policy, certificate=None))
    assert register(database, bundle, **GOAL).policy == "scaled"


def test_the_latencies_of_an_invalid_profile_are_taken_only_on_request(database, tmp_path):
    bundle = fitted_bundle(tmp_path / "bundle")
    found = LatencyProfile(
        bundle=bundle.digest, machine="m", runtime="r", threads=1, batch=1, cold_load_ms=1, first_run_ms=1,
        stages=tuple(StageProfile(name=stage.name, latency=summarise([1.0] * 9)) for stage in bundle.manifest.stages),
        invalid=("the machine was busy",),
    )  # fmt: skip
    bundle.write_profile(found)
    register(database, bundle, **GOAL)
    registered = register(database, bundle, **GOAL, costs=bundle.costs(force=True))
    units = [event.details["cost_unit"] for event in events(database, registered.cohort)]
    assert units == ["macs", "ms"]


def bounds(database):
    """Return the latency bounds of the revisions, oldest first."""
    with database.reading() as session:
        rows = session.scalars(select(PolicyRevisionRow).order_by(PolicyRevisionRow.revision))
        return [decode_document(row.document.encode()).max_latency for row in rows]


def test_another_latency_bound_is_a_revision_with_the_present_policy_and_is_kept(database, bundle):
    bound, lower = LatencyBound(quantile=0.99, ms=50), LatencyBound(quantile=0.99, ms=40)
    cohort = register(database, bundle, **GOAL, max_latency=bound).cohort
    with database.writing() as session:
        refitted = decode_document(current_revision(session, 1).document.encode()).policy
        refitted = msgspec.structs.replace(refitted, thresholds=(0.99, 0.99))
        row = find_cohort(session, cohort)
        add_revision(
            session, row, refitted, None, max_latency=bound, audit=AuditRule(fraction=0.05), reason="refitted",
            created_by="calibrator", now=NOW,
        )  # fmt: skip
    assert not register(database, bundle, **GOAL).is_new_revision  # without a bound, the registered one stays
    again = register(database, bundle, **GOAL, max_latency=lower)
    assert (again.revision, again.is_new_revision) == (3, True)
    assert bounds(database) == [bound, bound, lower]
    last = policy_history(database, cohort)[-1]
    assert (last.thresholds, last.reason) == ((0.99, 0.99), "registered again with another latency bound")
    assert last.audit == AuditRule(fraction=0.05)
