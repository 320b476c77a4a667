"""Which keys a process trusts for which role, and how one signed key set follows another, as TUF's root role does.

https://theupdateframework.github.io/specification/latest/#update-root. Nothing here reads a clock or a file.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Final, Literal, NamedTuple

import msgspec

from edgeexit.errors import SignatureError
from edgeexit.policies.document import MAX_REVISION, Name
from edgeexit.signing import PublicKey, PublicKeyText, public_key_from_text, unverified, verify

Role = Literal["root", "policy", "bundle", "command"]
"""What a key may sign: key sets, policies and heartbeats, bundles, commands."""

KEY_SET_TYPE: Final = "application/vnd.edgeexit.keys+json"
"""Payload type of the signed envelope of a key set."""
MAX_KEYS: Final = 16
"""Maximum number of keys of a role."""
MAX_SETS: Final = 32
"""Maximum number of key sets in one history."""
MAX_HISTORY_BYTES: Final = 256 * 1024
"""Maximum size of a history of key sets."""
_NEEDED_ROLES: Final = ("root", "policy")


class RoleKeys(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The keys of a role, and how many of them must sign."""

    threshold: Annotated[int, msgspec.Meta(ge=1, le=MAX_KEYS)] = 1
    keys: Annotated[tuple[PublicKeyText, ...], msgspec.Meta(min_length=1, max_length=MAX_KEYS)]

    def __post_init__(self) -> None:
        """Raise ValueError if a key is invalid or twice in the role, or there are fewer keys than the threshold."""
        try:
            different = {public_key_from_text(key).public_bytes_raw() for key in self.keys}
        except SignatureError as error:
            raise ValueError(str(error)) from error
        if len(different) < len(self.keys):
            raise ValueError("a role contains a key twice")
        if self.threshold > len(self.keys):
            raise ValueError(f"a threshold of {self.threshold} needs as many keys, the role has {len(self.keys)}")


class KeySet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The keys that the devices of a fleet trust. A role that is missing has no keys: nothing is accepted for it."""

    fleet: Name
    version: Annotated[int, msgspec.Meta(ge=1, le=MAX_REVISION)]
    """Higher than that of the set that it replaces."""
    roles: dict[Role, RoleKeys]

    def __post_init__(self) -> None:
        """Raise ValueError if a role is missing without which the fleet could not be managed."""
        for role in _NEEDED_ROLES:
            if role not in self.roles:
                raise ValueError(f"role '{role}' needs at least one key")


class TrustedRole(NamedTuple):
    """The keys of a role, and how many of them must sign."""

    threshold: int
    keys: tuple[PublicKey, ...]


class TrustedKeys:
    """What a process trusts now: the keys of its configuration, which have version 0, or those of a key set.

    Immutable; `updated` returns a new one.

    Args:
        fleet: key sets of other fleets are refused.
        roles: the keys of the configuration; see `configured`.

    """

    def __init__(self, fleet: str, roles: Mapping[Role, TrustedRole]) -> None:
        self._fleet = fleet
        self._roles = dict(roles)
        self._version = 0
        self._payload = b""
        self._bridge: tuple[bytes, ...] = ()
        """The sets that lead from the root keys of the configuration to those of now."""
        self._envelopes: tuple[bytes, ...] = ()

    @classmethod
    def configured(
        cls,
        fleet: str,
        *,
        trusted: Sequence[PublicKey] = (),
        policy: Sequence[PublicKey] = (),
        bundle: Sequence[PublicKey] = (),
        command: Sequence[PublicKey] = (),
        policy_threshold: int = 1,
    ) -> "TrustedKeys":
        """Return the keys of a configuration. `trusted` keys have every role, also that of a root key.

        As many root keys as policy keys must sign, because a key set can lower the number for policies.
        """
        roles: dict[Role, TrustedRole] = {
            "root": TrustedRole(policy_threshold, _different(trusted)),
            "policy": TrustedRole(policy_threshold, _different((*trusted, *policy))),
            "bundle": TrustedRole(1, _different((*trusted, *bundle))),
            "command": TrustedRole(1, _different((*trusted, *command))),
        }
        return cls(fleet, roles)

    @property
    def version(self) -> int:
        """Version of the key set; 0 for the keys of the configuration."""
        return self._version

    @property
    def history(self) -> bytes:
        """Key sets to be stored: `updated` of the configured keys with them returns these keys again.

        They are the present set and, of those before it, the sets that changed the root keys.
        """
        return encode_history(self._envelopes)

    def keys(self, role: Role) -> tuple[PublicKey, ...]:
        """Return the keys of a role; none if the key set has no such role."""
        return self._role(role).keys

    def threshold(self, role: Role) -> int:
        """Return how many keys of a role must sign."""
        return self._role(role).threshold

    def verify(self, envelope: bytes, *, payload_type: str, role: Role) -> bytes:
        """Return the payload of an envelope that enough keys of `role` signed. Raises SignatureError otherwise."""
        threshold, keys = self._role(role)
        return verify(envelope, payload_type=payload_type, keys=keys, threshold=threshold)

    def updated(self, history: bytes) -> "TrustedKeys":
        """Return the keys that follow from a history of key sets: signed envelopes in a JSON list, the oldest first.

        A set follows if enough of the root keys until then and enough of its own root keys have signed it, it is for
        this fleet, and its version is higher. So a process that missed some sets catches up through the list, and one
        whose configuration is newer than the first sets ignores these. The last set must follow, or be the present one.
        Raises SignatureError otherwise; then nothing changes.
        """
        trusted, failure = self, None
        for envelope in decode_history(history):
            try:
                trusted, failure = trusted._followed_by(envelope), None
            except SignatureError as error:  # noqa: PERF203 - few sets
                failure = error
        if failure is not None:
            raise failure
        return trusted

    def _role(self, role: Role) -> TrustedRole:
        return self._roles.get(role, TrustedRole(1, ()))

    def _root_verify(self, envelope: bytes, whose: str) -> bytes:
        try:
            return self.verify(envelope, payload_type=KEY_SET_TYPE, role="root")
        except SignatureError as error:
            raise SignatureError(f"key set is not signed by {whose}: {error}") from error

    def _followed_by(self, envelope: bytes) -> "TrustedKeys":
        """Return the keys of one key set, or these if it is the present one. Raises SignatureError otherwise."""
        payload = self._root_verify(envelope, "the root keys that are trusted now")
        key_set = decode_key_set(payload)
        if key_set.fleet != self._fleet:
            raise SignatureError(f"key set is for fleet '{key_set.fleet}', this fleet is '{self._fleet}'")
        if payload == self._payload:
            return self
        if key_set.version <= self._version:
            raise SignatureError(
                f"key set has version {key_set.version}, but version {self._version} is trusted already"
            )
        following = TrustedKeys(
            self._fleet,
            {
                role: TrustedRole(entry.threshold, tuple(public_key_from_text(key) for key in entry.keys))
                for role, entry in key_set.roles.items()
            },
        )
        following._root_verify(envelope, "its own root keys")
        if len(self._bridge) >= MAX_SETS:
            raise SignatureError(
                f"the root keys of the configuration were replaced {MAX_SETS} times; put the newest ones there"
            )
        following._version = key_set.version
        following._payload = payload
        following._envelopes = (*self._bridge, envelope)
        following._bridge = (
            self._bridge if _same_keys(self._role("root"), following._role("root")) else following._envelopes
        )
        return following


def encode_key_set(key_set: KeySet) -> bytes:
    """Return the JSON of a key set, which is what gets signed."""
    return msgspec.json.encode(key_set, order="deterministic")


def decode_key_set(payload: bytes) -> KeySet:
    """Decode a key set. Raises SignatureError that names the invalid field."""
    try:
        return msgspec.json.decode(payload, type=KeySet)
    except (msgspec.DecodeError, RecursionError) as error:
        raise SignatureError(f"not a key set: {error}") from error


def encode_history(envelopes: Iterable[bytes]) -> bytes:
    """Return the history that contains these envelopes, the oldest first: what `{fleet}/keys` carries."""
    return msgspec.json.encode([msgspec.Raw(envelope) for envelope in envelopes])


def decode_history(history: bytes) -> list[bytes]:
    """Return the envelopes of a history; they are not verified. Raises SignatureError if it is not one."""
    if len(history) > MAX_HISTORY_BYTES:
        raise SignatureError(
            f"a history of key sets of {len(history):,} bytes is larger than {MAX_HISTORY_BYTES:,} bytes"
        )
    try:
        envelopes = [bytes(envelope) for envelope in msgspec.json.decode(history, type=list[msgspec.Raw])]
    except (msgspec.DecodeError, RecursionError) as error:
        raise SignatureError(f"not a history of key sets: {error}") from error
    if not 1 <= len(envelopes) <= MAX_SETS:
        raise SignatureError(f"a history contains 1 to {MAX_SETS} key sets, this one contains {len(envelopes)}")
    return envelopes


def shortest_history(envelopes: Sequence[bytes]) -> list[bytes]:
    """Return a history without the sets that no process needs to follow the others; it has the same last set.

    The first set stays, because it may have changed the root keys of a configuration. Of the others before the last
    one, those stay that changed the root keys. Signatures are not verified. Raises SignatureError for other content.
    """
    roots = [decode_key_set(unverified(one, payload_type=KEY_SET_TYPE)[0]).roles["root"] for one in envelopes]
    last = len(envelopes) - 1
    return [
        envelope
        for place, envelope in enumerate(envelopes)
        if place in {0, last} or not _same_root(roots[place - 1], roots[place])
    ]


def newest_key_set(history: bytes) -> tuple[KeySet, int]:
    """Return the last key set of a history and how many signatures it has. None of them is verified.

    Raises SignatureError if it is not a history of key sets.
    """
    payload, signatures = unverified(decode_history(history)[-1], payload_type=KEY_SET_TYPE)
    return decode_key_set(payload), signatures


def _same_keys(one: TrustedRole, other: TrustedRole) -> bool:
    first, second = ({key.public_bytes_raw() for key in role.keys} for role in (one, other))
    return first == second and one.threshold == other.threshold


def _same_root(one: RoleKeys, other: RoleKeys) -> bool:
    return set(one.keys) == set(other.keys) and one.threshold == other.threshold


def _different(keys: Iterable[PublicKey]) -> tuple[PublicKey, ...]:
    return tuple({key.public_bytes_raw(): key for key in keys}.values())
