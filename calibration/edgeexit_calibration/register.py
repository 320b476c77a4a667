"""Register a bundle for a cohort: what its policy must hold, what its exits cost, and its first revision."""

from datetime import datetime, timezone
from itertools import pairwise

import msgspec

from edgeexit.bundle import Bundle
from edgeexit.errors import BundleError
from edgeexit.fitting import samples_needed
from edgeexit.policies import encode_document
from edgeexit.wire import check_name
from edgeexit_calibration.cohorts import (
    CohortAddress,
    add_event,
    add_revision,
    current_revision,
    find_or_add_cohort,
)
from edgeexit_calibration.database import Database
from edgeexit_calibration.tables import Registration


class Registered(msgspec.Struct, frozen=True, kw_only=True):
    """What a registration came to."""

    cohort: CohortAddress
    revision: int
    """The cohort's current revision."""
    is_new_revision: bool
    """False where the bundle's policy was registered before and only the goal may have changed."""
    certified_risk: float | None
    """What the bundle's own policy is certified for, where it is."""
    policy: str
    """Kind of the bundle's policy."""
    refittable: bool
    """Whether audits hold all that its policy reads, so that it can be fitted anew."""


def register(
    database: Database, bundle: Bundle, *, fleet: str, cohort: str, risk: float, delta: float, who: str
) -> Registered:
    """Put a cohort's policy into the calibrator's care; `CalibratorService` publishes it at its next check.

    The first registration makes the next revision of the policy in the bundle: 1, or above those that devices are
    known to run. A later one changes the goal, and makes the next revision where the bundle has been fitted anew.

    Args:
        database: where to.
        bundle: opened; with a policy, and a profile where there is one.
        fleet: whose devices.
        cohort: which of them.
        risk: bound on the share of answers that differ from the final exit's, 0 to 1.
        delta: probability with which the bound may fail, 0 to 1.
        who: the user, for the audit log.

    Raises MessageError (names), FittingError (risk, delta), BundleError (no policy, maps, costs that do not
    increase), DatabaseError.

    """
    address = CohortAddress(check_name("fleet", fleet), bundle.digest, check_name("cohort", cohort))
    samples_needed(risk, delta)  # refuses a goal that nothing could ever certify
    shipped = bundle.policy()
    if shipped is None:
        raise BundleError(f"bundle '{bundle.path}' has no policy to begin with; run `edgeexit fit` first")
    if bundle.manifest.task == "segmentation":
        raise BundleError(
            f"bundle '{bundle.path}' segments, and audits hold no maps: what share of the pixels an early exit gets "
            "otherwise could neither be watched nor certified; its policy can only ship in the bundle"
        )
    unit, costs = bundle.costs()
    if len(costs) != len(bundle.manifest.exits) or not all(a < b for a, b in pairwise((0.0, *costs))):
        raise BundleError(f"bundle '{bundle.path}': costs {costs} {unit} do not increase; run `edgeexit profile`")
    content = encode_document(shipped).decode()
    now = datetime.now(timezone.utc)
    with database.writing() as session:
        row = find_or_add_cohort(session, address)
        asked = session.get(Registration, row.id)
        is_new = asked is None or asked.shipped != content
        if asked is None:
            asked = Registration(cohort_id=row.id)
            session.add(asked)
        asked.model, asked.exits = bundle.manifest.model, list(bundle.manifest.exits)
        asked.costs, asked.cost_unit = list(costs), unit
        asked.risk, asked.delta, asked.shipped = risk, delta, content
        asked.who, asked.at = who, now
        current = current_revision(session, row.id)
        if current is None or is_new:
            reason = "registered" if current is None else "registered again with a policy fitted anew"
            revision = add_revision(session, row, shipped.policy, shipped.certificate, reason=reason, who=who, now=now)
        else:
            revision = current.revision
        details = {"risk": risk, "delta": delta, "revision": revision, "costs": costs, "cost_unit": unit}
        add_event(session, row.id, "registered", details, who=who, now=now)
    certified_risk = None if shipped.certificate is None else shipped.certificate.risk
    return Registered(
        cohort=address,
        revision=revision,
        is_new_revision=is_new,
        certified_risk=certified_risk,
        policy=shipped.policy.kind,
        refittable=not shipped.policy.reads_probabilities,
    )
