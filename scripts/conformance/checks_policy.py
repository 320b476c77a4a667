"""Checks of policies and heartbeats: what is applied, and what changes nothing."""

from bench import Bench, FailedError, SkippedError, check
from sent_policies import apply_policy, equal_thresholds, next_revision

from edgeexit.policies import Rollout, Scope
from edgeexit.signing import PrivateKey
from edgeexit.wire import Report


@check("policy", "policy", "A valid policy is applied and reported, and samples exit where it says.")
def _policy(bench: Bench) -> None:
    revision = next_revision(bench)
    state = apply_policy(bench, revision, equal_thresholds(bench, 0.0))
    if state.accepted != revision:
        raise FailedError(f"accepted is {state.accepted} under revision {revision}")
    if state.rejected is not None:
        raise FailedError(f"the state still has a rejection: {state.rejected.reason}")
    report = _report_of(bench, revision)
    if any(exit_.exited for exit_ in report.exits[1:]):
        raise FailedError("samples passed the first exit, although its threshold is 0")
    revision += 1
    apply_policy(bench, revision, equal_thresholds(bench, None))
    report = _report_of(bench, revision)
    if any(exit_.exited for exit_ in report.exits[:-1]):
        raise FailedError("samples exited early, although every threshold is null")


def _report_of(bench: Bench, revision: int) -> Report:
    def found() -> Report | None:
        reports = [r for r in bench.calibrator.since(0, Report) if r.revision == revision and r.exits[0].reached]
        return reports[-1] if reports else None

    return bench.wait(found, f"a report of revision {revision} with samples")


@check(
    "policy",
    "policy-repeated",
    "The same policy again, also with another rollout, changes nothing and is not rejected.",
)
def _policy_repeated(bench: Bench) -> None:
    calibrator = bench.calibrator
    revision = next_revision(bench)
    apply_policy(bench, revision, equal_thresholds(bench, 0.5), rollout=Rollout(percent=100, salt="a"))
    for rollout in (Rollout(percent=100, salt="a"), Rollout(percent=50, salt="b")):
        calibrator.send_policy(
            calibrator.document(revision, bench.exits, equal_thresholds(bench, 0.5), rollout=rollout)
        )
    calibrator.publish(calibrator.policy_topic(), b"", retain=True)
    bench.pause()
    state = calibrator.current()
    if state.revision != revision or state.rejected is not None:
        raise FailedError(f"revision {state.revision}, rejected {state.rejected}; expected {revision} and no rejection")


@check(
    "policy",
    "policy-rollout",
    "A policy whose rollout does not include the device changes nothing, and is not rejected.",
)
def _policy_rollout(bench: Bench) -> None:
    calibrator = bench.calibrator
    nobody = Rollout(percent=0)
    before = apply_policy(bench, next_revision(bench), equal_thresholds(bench, 0.5))
    document = calibrator.document(next_revision(bench), bench.exits, equal_thresholds(bench, 0.0), rollout=nobody)
    calibrator.send_policy(document)
    bench.pause()
    state = calibrator.current()
    if state.revision != before.revision or state.rejected is not None:
        raise FailedError(
            f"revision {state.revision}, rejected {state.rejected}; expected {before.revision} and no rejection"
        )


@check(
    "policy",
    "heartbeat",
    "The state shows the newest heartbeat; a lower counter, or another key, changes nothing.",
    core=False,
)
def _heartbeat(bench: Bench) -> str:
    calibrator = bench.calibrator
    revision = calibrator.current().accepted
    calibrator.send_heartbeat(revision, 100)
    if calibrator.wait(lambda: calibrator.current().confirmed is not None, bench.patience_s) is None:
        raise SkippedError("the state shows no heartbeat")
    bench.wait_state(lambda state: state.confirmed is not None and state.confirmed.counter == 100, "counter 100")  # noqa: PLR2004
    calibrator.send_heartbeat(revision, 99)
    calibrator.send_heartbeat(revision, 101, key=PrivateKey.generate())
    bench.pause()
    confirmed = calibrator.current().confirmed
    if confirmed is None or confirmed.counter != 100:  # noqa: PLR2004
        raise FailedError(f"the state shows {confirmed}, not counter 100")
    return "counter 100"


@check("policy", "policy-of-device", "A policy for the device overrides the policy of its cohort, also a later one.")
def _policy_of_device(bench: Bench) -> None:
    calibrator = bench.calibrator
    scope = Scope(fleet=calibrator.address.fleet, device=calibrator.address.device)
    revision = next_revision(bench) + 10
    apply_policy(bench, revision, equal_thresholds(bench, 0.5), scope=scope)
    calibrator.send_policy(calibrator.document(revision + 5, bench.exits, equal_thresholds(bench, 0.0)))
    bench.pause()
    if calibrator.current().revision != revision:
        raise FailedError(f"revision {calibrator.current().revision} of the cohort replaced {revision} of the device")
