"""Checks of key sets: which ones a client follows, and what follows from them."""

from bench import Bench, FailedError, check
from sent_policies import apply_policy, equal_thresholds, next_revision

from edgeexit.key_set import KEY_SET_TYPE, KeySet, RoleKeys, encode_history, encode_key_set
from edgeexit.policies import Scope
from edgeexit.signing import PrivateKey, public_key_text, sign
from edgeexit.wire import keys_topic


@check(
    "keys",
    "key-set",
    "A key set that the root key has signed replaces the keys; another one changes nothing.",
    core=False,
)
def _key_set(bench: Bench) -> None:
    calibrator = bench.calibrator
    root, following, stranger = calibrator.key, PrivateKey.generate(), PrivateKey.generate()
    revision = next_revision(bench)
    scope = Scope(fleet=calibrator.address.fleet, device=calibrator.address.device)  # overrides what cohorts have
    try:
        _publish(bench, root=stranger, policy=stranger, signed_by=stranger)
        _publish(bench, root=stranger, policy=stranger, signed_by=root)
        bench.pause()
        apply_policy(bench, revision, equal_thresholds(bench, 0.5), scope=scope)
        _publish(bench, root=root, policy=following, signed_by=root)
        bench.pause()
        former = calibrator.document(revision + 1, bench.exits, equal_thresholds(bench, 0.25), scope=scope)
        calibrator.send_policy(former)
        bench.wait_state(lambda state: state.rejected is not None, "a state that rejects a policy of the former key")
        if calibrator.current().revision == revision + 1:
            raise FailedError("a policy of the former key was applied")
        calibrator.key = following
        apply_policy(bench, revision + 2, equal_thresholds(bench, 0.5), scope=scope)
    finally:
        calibrator.publish(keys_topic(calibrator.address.fleet), b"", retain=True)


def _publish(bench: Bench, *, root: PrivateKey, policy: PrivateKey, signed_by: PrivateKey) -> None:
    """Publish a history of one key set."""

    def keys(key: PrivateKey) -> RoleKeys:
        return RoleKeys(keys=(public_key_text(key.public_key()),))

    fleet = bench.calibrator.address.fleet
    content = KeySet(
        fleet=fleet, version=1, roles={"root": keys(root), "policy": keys(policy), "command": keys(policy)}
    )
    envelope = sign(encode_key_set(content), payload_type=KEY_SET_TYPE, keys=[signed_by])
    bench.calibrator.publish(keys_topic(fleet), encode_history([envelope]), retain=True)
