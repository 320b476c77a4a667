"""The golden messages that every implementation accepts."""

from collections.abc import Iterator

import msgspec
from example_messages import (
    DEVICE,
    FLEET,
    START,
    TOPICS,
    encode_audit,
    make_command,
    make_document,
    make_heartbeat,
    make_presence,
    make_profile,
    make_report,
    make_sample,
    make_state,
    sign_command,
    sign_heartbeat,
    sign_key_set,
    sign_policy,
    sign_presence,
    test_key,
)
from vector import Vector

from edgeexit.key_set import encode_history
from edgeexit.policies import AuditRule, Certificate, LatencyBound, Rollout, Scope
from edgeexit.policies.beem import Beem
from edgeexit.signing import public_key_text
from edgeexit.wire import (
    Ack,
    Confirmation,
    Losses,
    Refusal,
    Rejection,
    Reversion,
    encode,
)
from edgeexit.wire.audit_signing import sign_audit


def valid_vectors() -> Iterator[Vector]:
    """Yield the valid messages."""
    yield Vector("state.minimal.json", "state", encode(make_state()), "every optional field has its default")
    yield Vector(
        "state.full.json",
        "state",
        encode(
            make_state(
                online=False,
                key=public_key_text(test_key("device").public_key()),
                rejected=Rejection(reason="revision 3 is lower than the current revision 4", revision=3),
                reverted=Reversion(revision=2, reason="no sample exited early in 500 samples"),
                confirmed=Confirmation(counter=17, revision=5),
                unconfirmed=True,
                problems=("the outbox is in memory: no space left on device",),
                audit_fraction=0.01,
            )
        ),
        "every field is set",
    )
    yield Vector("report.minimal.json", "report", encode(make_report()), "optional fields have their defaults")
    yield Vector(
        "report.full.json",
        "report",
        encode(
            make_report(
                sequence=2**53,
                failed=1,
                losses=Losses(full=3, oversized=1, largest_bytes=300000, refused=2, damaged=1),
                skipped=4,
            )
        ),
        "every field is set",
    )
    omitted = msgspec.to_builtins(make_report())
    for name in ("failed", "losses", "skipped"):
        del omitted[name]
    yield Vector("report.omitted.json", "report", msgspec.json.encode(omitted), "fields with a default may be missing")
    extra = {**msgspec.to_builtins(make_report()), "added_in_a_later_version": {"any": ["value", None]}}
    yield Vector("report.unknown_field.json", "report", msgspec.json.encode(extra), "unknown fields are ignored")
    topic, device = TOPICS["audit"], test_key("device")
    yield Vector(
        "audit.minimal.json",
        "audit",
        sign_audit(encode_audit(make_sample()), topic=topic, key=device),
        "one sample, no label",
    )
    yield Vector(
        "audit.full.json",
        "audit",
        sign_audit(encode_audit(make_sample(label=3, prediction=5), make_sample(exit=2)), topic=topic, key=device),
        "a label, and a prediction that differs from top1[exit]",
    )
    scored = make_sample(prediction=5, scores=(0.625, 0.875, 0.9), predictions=(5, 5, 5))
    yield Vector(
        "audit.scores.json",
        "audit",
        sign_audit(encode_audit(scored, make_sample(scores=(1.5, -0.25, 0.9))), topic=topic, key=device),
        "the scores of a policy that reads the probabilities of all classes; without predictions, they are top1",
    )
    maps = encode_audit(make_sample(differing=(0.125, 0.0625, 0.0)), make_sample(exit=2, differing=(0.5, 0.0, 0.0)))
    yield Vector(
        "audit.maps.json",
        "audit",
        sign_audit(maps, topic=topic, key=device),
        "the fractions of a map of classes that differ from the final exit's",
    )
    spaced = msgspec.json.format(encode_audit(make_sample()), indent=1)
    yield Vector(
        "audit.spaced.json",
        "audit",
        sign_audit(spaced, topic=topic, key=device),
        "the signature covers the bytes of `audit` as they are, white space included",
    )
    yield Vector("profile.minimal.json", "profile", encode(make_profile()), "optional fields have their defaults")
    yield Vector("ack.minimal.json", "ack", encode(Ack(start=START, sequences=(1,))), "one stored message")
    yield Vector(
        "ack.full.json",
        "ack",
        encode(
            Ack(
                start=START,
                sequences=(1, 2, 9007199254740991),
                refused=(
                    Refusal(sequence=3, reason="the bundle is not registered", final=True),
                    Refusal(sequence=4, reason="the identity key is not enrolled yet", final=False),
                ),
            )
        ),
        "stored messages, a final refusal and one that is not final",
    )
    yield Vector("cohort_policy.minimal.json", "cohort_policy", sign_policy(make_document()), "a policy for a cohort")
    yield Vector(
        "cohort_policy.full.json",
        "cohort_policy",
        sign_policy(
            make_document(
                revision=2**53,
                policy=Beem(temperatures=(1.0, 0.9, 1.1), thresholds=(0.8, 1.5), weights=(0.5, 0.7, 1.0)),
                rollout=Rollout(percent=100.0, salt="spring"),
                certificate=Certificate(
                    method="wsr",
                    samples=4000,
                    risk=0.05,
                    delta=0.1,
                    observed=0.03,
                    upper_bound=0.04,
                    exit_rates=(0.5, 0.3, 0.2),
                ),
                max_latency=LatencyBound(quantile=0.99, ms=40.0),
                audit=AuditRule(fraction=0.05),
            ),
            signed_by=("stranger", "calibrator"),
        ),
        "every field is set; a signature of an unknown key stands beside that of a trusted key",
    )
    device_scope = Scope(fleet=FLEET, device=DEVICE)
    yield Vector(
        "device_policy.minimal.json",
        "device_policy",
        sign_policy(make_document(scope=device_scope)),
        "a policy for one device",
    )
    yield Vector("command.report.json", "command", sign_command(make_command()), "publish reports now")
    yield Vector(
        "command.profile.json", "command", sign_command(make_command(action="profile")), "measure a profile now"
    )
    yield Vector("heartbeat.minimal.json", "heartbeat", sign_heartbeat(make_heartbeat()), "all fields are required")
    yield Vector(
        "calibrator.minimal.json", "calibrator", sign_presence(make_presence()), "a calibrator serves the fleet"
    )
    first = sign_key_set(1, "root", signed_by=("root",))
    second = sign_key_set(2, "next-root", signed_by=("root", "next-root"))
    yield Vector("keys.minimal.json", "keys", encode_history([first]), "one key set")
    yield Vector("keys.full.json", "keys", encode_history([first, second]), "the root key changes; both have signed")
