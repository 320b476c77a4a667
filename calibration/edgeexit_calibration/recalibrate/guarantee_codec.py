"""Encodes the state of a guarantee for the database, without its policy, which the current revision contains.

The content is msgpack behind a digest of it. If it is damaged, of another version or belongs to another policy, it is
not used, and the guarantee begins anew.
"""

import hashlib
from typing import Any, Final, NamedTuple, get_origin

import msgspec
import numpy as np
from msgspec.structs import FieldInfo

from edgeexit.errors import EdgeExitError
from edgeexit.policies import Policy
from edgeexit_calibration.recalibrate.guarantee import Guarantee
from edgeexit_calibration.recalibrate.guarantee_rules import GuaranteeRules

_VERSION: Final = 1
"""Changes with the meaning of a field. A change of the fields themselves is found when they are decoded."""
_DIGEST_BYTES: Final = 16
_FIELDS: Final = tuple(field for field in msgspec.structs.fields(Guarantee) if field.name != "policy")


def _with_default(field: FieldInfo) -> tuple[str, Any] | tuple[str, Any, Any]:
    """Return the definition of a field. A state from before the field was added has its default."""
    if field.default_factory is not msgspec.NODEFAULT:
        return field.name, field.type, msgspec.field(default_factory=field.default_factory)
    return (field.name, field.type) if field.required else (field.name, field.type, field.default)


_State: Final[Any] = msgspec.defstruct(
    "_State",
    [_with_default(field) for field in _FIELDS],
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
)
"""The fields of a guarantee without its policy. A state from before a field with a default existed has the default."""


class StateError(EdgeExitError):
    """A stored state cannot be used; the message says why."""


class Snapshot(NamedTuple):
    """The state of a guarantee, and the rules under which it was reached."""

    state: Guarantee
    rules: GuaranteeRules


class _Content(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: int
    policy: bytes
    """Digest of the policy in force."""
    rules: GuaranteeRules
    state: msgspec.Raw


class _ArrayContent(msgspec.Struct, frozen=True, array_like=True):
    dtype: str
    shape: tuple[int, ...]
    data: bytes


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """Return a snapshot as bytes."""
    state = _State(**{field.name: getattr(snapshot.state, field.name) for field in _FIELDS})
    content = _Content(
        version=_VERSION,
        policy=_policy_digest(snapshot.state.policy),
        rules=snapshot.rules,
        state=msgspec.Raw(msgspec.msgpack.encode(state, enc_hook=_encode_array)),
    )
    encoded = msgspec.msgpack.encode(content)
    return _digest(encoded) + encoded


def decode_snapshot(encoded: bytes, policy: Policy) -> Snapshot | None:
    """Return the snapshot of the guarantee whose policy in force is `policy`; None if it has another policy.

    Raises StateError if the bytes are damaged or of another version.
    """
    digest, body = encoded[:_DIGEST_BYTES], encoded[_DIGEST_BYTES:]
    if digest != _digest(body):
        raise StateError("it is damaged")
    try:
        content = msgspec.msgpack.decode(body, type=_Content)
        if content.version != _VERSION:
            raise StateError(f"it has version {content.version}, but this version of edgeexit reads version {_VERSION}")
        if content.policy != _policy_digest(policy):
            return None
        state = msgspec.msgpack.decode(content.state, type=_State, dec_hook=_decode_array)
    except (msgspec.DecodeError, ValueError, TypeError) as error:
        raise StateError(f"it was written by another version of edgeexit: {error}") from error
    fields = {field.name: getattr(state, field.name) for field in _FIELDS}
    return Snapshot(Guarantee(policy=policy, **fields), content.rules)


def _policy_digest(policy: Policy) -> bytes:
    return _digest(msgspec.json.encode(policy, order="deterministic"))


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:_DIGEST_BYTES]


def _encode_array(value: Any) -> _ArrayContent:
    if not isinstance(value, np.ndarray):
        raise NotImplementedError(f"a state contains a {type(value).__name__}")
    return _ArrayContent(value.dtype.str, value.shape, value.tobytes())


def _decode_array(expected: Any, value: Any) -> Any:
    if get_origin(expected) is not np.ndarray:
        raise NotImplementedError(f"a state contains a {expected}")
    array = msgspec.convert(value, _ArrayContent)
    return np.frombuffer(array.data, np.dtype(array.dtype)).reshape(array.shape)
