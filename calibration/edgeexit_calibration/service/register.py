"""Registers a bundle for a cohort: stores the maximum risk, the costs of the exits and the first policy revision."""

from datetime import datetime, timezone
from typing import Final

import msgspec

from edgeexit.bundle import Bundle, Costs
from edgeexit.fitting import samples_needed
from edgeexit.policies import PolicyDocument, decode_document
from edgeexit.policies.document import Certificate, LatencyBound, Loss
from edgeexit.wire import check_name
from edgeexit_calibration.service.budget import budget_details, checked_budget, costs_now
from edgeexit_calibration.service.registrable_bundle import registrable
from edgeexit_calibration.store.cohorts import (
    CohortAddress,
    add_event,
    add_revision,
    current_revision,
    find_or_add_cohort,
    locked_cohort,
)
from edgeexit_calibration.store.database import Database
from edgeexit_calibration.store.tables import RegistrationRow
from edgeexit_calibration.views.field_costs import CohortCosts

DEFAULT_RISK: Final = 0.05
DEFAULT_DELTA: Final = 0.1


class RegistrationResult(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a registration."""

    cohort: CohortAddress
    risk: float
    delta: float
    loss: Loss
    revision: int
    """The cohort's current revision."""
    is_new_revision: bool
    """False if the bundle's policy was already registered; then only the risk or the loss may have changed."""
    certificate: Certificate | None
    """The certificate of the current revision."""
    policy: str
    """Kind of its policy."""
    costs: CohortCosts
    """The costs with which policies are compared."""
    budget_ms: float | None
    """Bound on the mean cost of a sample; None: the cost is to be as low as possible."""

    @property
    def certified_risk(self) -> float | None:
        """The bound on the registered loss that follows from the certificate; None: it says nothing about this loss.

        The regret of a sample is at most its disagreement.
        """
        certificate = self.certificate
        return certificate.risk if certificate is not None and self.loss in (certificate.loss, "regret") else None


def register(
    database: Database,
    bundle: Bundle,
    *,
    fleet: str,
    cohort: str,
    user: str,
    risk: float | None = None,
    delta: float | None = None,
    loss: Loss | None = None,
    costs: Costs | None = None,
    max_latency: LatencyBound | None = None,
    budget_ms: float | None = None,
    no_budget: bool = False,
) -> RegistrationResult:
    """Register a cohort, so that the calibrator publishes, watches and adapts its policy.

    The first registration stores the bundle's policy as revision 1, or as a higher revision if devices already run
    one. A later registration adds one only if the bundle has a new policy. What it does not name stays as registered.

    Args:
        database: stores the registration.
        bundle: must contain a policy.
        fleet: name of the fleet.
        cohort: label of the cohort in the fleet.
        user: name of the user, for the audit log.
        risk: upper bound on the expected loss, 0 to 1; for segmentation and tagging, on the mean fraction of the pixels
            or tokens that differ. None: the registered one, or else `DEFAULT_RISK`.
        delta: probability with which the bound may fail, 0 to 1. None: the registered one, or else `DEFAULT_DELTA`.
        loss: what is bounded; None: the registered loss, or else the disagreement. Another one begins the guarantee
            anew. If it needs labels, only audits with a label count.
        costs: costs of the exits; default: `Bundle.costs`.
        max_latency: a device on which the policy breaks this bound reverts it; default: the bound of the bundle's
            policy, or else the one that is registered.
        budget_ms: bound on the mean cost of a sample in ms: the calibrator chooses the safest certified policy within
            it, or else the cheapest one; default: the budget that is registered.
        no_budget: remove the registered budget; then the cheapest certified policy is chosen.

    Raises MessageError for an invalid name, FittingError for an invalid risk or delta or for a budget that cannot be
    met or compared with the costs, BundleError for a bundle without a policy or with costs that do not increase,
    PolicyError if the cohort has used the last revision, and DatabaseError.

    """
    address = CohortAddress(check_name("fleet", fleet), bundle.digest, check_name("cohort", cohort))
    document, content, (unit, cumulative, rejected) = registrable(bundle, loss=loss, costs=costs)
    now = datetime.now(timezone.utc)
    with database.writing() as session:
        row = locked_cohort(session, find_or_add_cohort(session, address).id)
        registration = session.get(RegistrationRow, row.id)
        risk, delta = _risk_and_delta(registration, risk, delta)
        current = current_revision(session, row.id)
        known = None if current is None else decode_document(current.document.encode())
        has_new_policy = registration is None or registration.bundle_policy != content
        bound = max_latency or _kept_bound(document, known, has_new_policy=has_new_policy)
        reason, revision = None, 0 if known is None else known.revision
        if known is None:
            reason = "registered"
        elif has_new_policy:
            reason = "registered again with a new policy"
        elif known.max_latency != bound:  # a policy of the calibrator stays
            reason, document = "registered again with another latency bound", known
        in_force = document if known is None or reason is not None else known
        if registration is None:
            registration = RegistrationRow(cohort_id=row.id, loss="disagreement")
            session.add(registration)
        registration.model, registration.exits = bundle.manifest.model, list(bundle.manifest.exits)
        registration.task = bundle.manifest.task
        registration.costs, registration.cost_unit = list(cumulative), unit
        registration.risk, registration.delta = risk, delta
        bounded = registration.loss = loss or msgspec.convert(registration.loss, Loss)
        registration.bundle_policy = content
        registration.registered_by, registration.registered_at = user, now
        costs_used = costs_now(session, row, registration, now=now)
        kept = None if no_budget else registration.budget_ms
        budget = checked_budget(budget_ms, costs_used, kept=kept, bundle=str(bundle.path), rejected=rejected)
        registration.budget_ms = budget
        if reason is not None:
            revision = add_revision(
                session,
                row,
                document.policy,
                document.certificate,
                max_latency=bound,
                audit=document.audit,
                reason=reason,
                created_by=user,
                now=now,
            )
        details = {
            "risk": risk, "delta": delta, "loss": bounded, "revision": revision, "costs": cumulative, "cost_unit": unit,
            **budget_details(budget),
        }  # fmt: skip
        add_event(session, row.id, "registered", details, actor=user, now=now)
    return RegistrationResult(
        cohort=address,
        revision=revision,
        is_new_revision=reason is not None,
        risk=risk,
        delta=delta,
        loss=bounded,
        certificate=in_force.certificate,
        policy=in_force.policy.kind,
        costs=costs_used,
        budget_ms=budget,
    )


def _risk_and_delta(
    registration: RegistrationRow | None, risk: float | None, delta: float | None
) -> tuple[float, float]:
    """Return what a registration bounds; what is None stays as registered. Raises FittingError for invalid values."""
    kept = (DEFAULT_RISK, DEFAULT_DELTA) if registration is None else (registration.risk, registration.delta)
    bound = kept[0] if risk is None else risk, kept[1] if delta is None else delta
    samples_needed(*bound)  # raises for values that no number of samples can certify
    return bound


def _kept_bound(document: PolicyDocument, known: PolicyDocument | None, *, has_new_policy: bool) -> LatencyBound | None:
    """Return the bound of a registration that names none: the registered one, or that of a new policy in the bundle."""
    registered = None if known is None else known.max_latency
    return (document.max_latency or registered) if has_new_policy else registered
