"""Checks of policies that must be rejected."""

import secrets
from typing import Any

from bench import Bench, FailedError, check
from sent_policies import apply_policy, equal_thresholds, next_revision

from edgeexit.policies import Scope, encode_document
from edgeexit.signing import PrivateKey
from edgeexit.wire import State


def _rejected(bench: Bench, send: Any, what: str) -> str:
    """Send something, and wait until the client reports a new rejection; its revision must not change."""
    before = bench.calibrator.current()
    index = len(bench.calibrator.seen)
    send()

    def found() -> State | None:
        states = [
            s for s in bench.calibrator.since(index, State) if s.online and s.rejected not in {None, before.rejected}
        ]
        return states[-1] if states else None

    state = bench.wait(found, f"a state that rejects {what}")
    if state.revision != before.revision:
        raise FailedError(f"the revision changed from {before.revision} to {state.revision}")
    return state.rejected.reason if state.rejected is not None else ""


def _accepted(bench: Bench) -> int:
    """Return the revision that the client has accepted; it gets one first if it has only that of its bundle."""
    if bench.calibrator.current().accepted == 0:
        apply_policy(bench, 1, equal_thresholds(bench, 0.5))
    return bench.calibrator.current().accepted


@check("rejection", "policy-signature", "A policy that no trusted key signed is rejected.")
def _policy_signature(bench: Bench) -> str:
    document = bench.calibrator.document(next_revision(bench), bench.exits, equal_thresholds(bench, 0.0))
    return _rejected(bench, lambda: bench.calibrator.send_policy(document, key=PrivateKey.generate()), "the signature")


@check("rejection", "policy-lower-revision", "A policy with a lower revision is rejected.")
def _policy_lower(bench: Bench) -> str:
    document = bench.calibrator.document(_accepted(bench) - 1, bench.exits, equal_thresholds(bench, 0.0))
    return _rejected(bench, lambda: bench.calibrator.send_policy(document), "the lower revision")


@check("rejection", "policy-same-revision", "Another policy under the current revision is rejected.")
def _policy_same(bench: Bench) -> str:
    document = bench.calibrator.document(_accepted(bench), bench.exits, equal_thresholds(bench, 0.25))
    return _rejected(bench, lambda: bench.calibrator.send_policy(document), "the other content")


@check("rejection", "policy-recipient", "A policy for another bundle, fleet, cohort, or number of exits is rejected.")
def _policy_recipient(bench: Bench) -> str:
    calibrator, revision = bench.calibrator, next_revision(bench)
    cohort = calibrator.current().cohort
    one: dict[str, Any] = {"thresholds": equal_thresholds(bench, 0.0), "exits": bench.exits}
    for what, fields in (
        ("another bundle", {"bundle": secrets.token_hex(32)}),
        ("another fleet", {"scope": Scope(fleet=f"{calibrator.address.fleet}x"[-64:], cohort=cohort)}),
        ("another cohort", {"scope": Scope(fleet=calibrator.address.fleet, cohort=f"{cohort}x"[-64:])}),
        ("one exit more", {"exits": bench.exits + 1, "thresholds": (*equal_thresholds(bench, 0.0), 0.0)}),
    ):
        document = calibrator.document(revision, **{**one, **fields})
        _rejected(bench, lambda document=document: calibrator.send_policy(document), what)
    return "4 policies"


@check("rejection", "policy-unknown", "A policy with an unknown field or of an unknown kind is rejected.")
def _policy_unknown(bench: Bench) -> str:
    calibrator = bench.calibrator
    content = encode_document(calibrator.document(next_revision(bench), bench.exits, equal_thresholds(bench, 0.0)))
    for old, new in ((b'{"bundle"', b'{"added_later":1,"bundle"'), (b'"confidence"', b'"telepathy"')):
        changed = content.replace(old, new)
        reason = _rejected(
            bench, lambda changed=changed: calibrator.send_policy_bytes(changed), "what it does not know"
        )
    return reason
