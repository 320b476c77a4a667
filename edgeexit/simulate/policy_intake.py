"""Verifies received policies once for all simulated devices that get them."""

from typing import Final

from edgeexit.agent.policy.check import Recipient, verify_policy
from edgeexit.key_set import TrustedKeys
from edgeexit.policies import PolicyDocument
from edgeexit.wire import Rejection

_MAX_KNOWN: Final = 64


class PolicyIntake:
    """Verifies envelopes as an agent does; the result for an envelope is remembered.

    Args:
        keys: the keys that may sign policies.
        fleet: name of the fleet.
        cohort: name of the cohort.
        bundle: digest of the bundle.
        exits: number of exits K.
        classes: number of classes C.

    """

    def __init__(self, keys: TrustedKeys, *, fleet: str, cohort: str, bundle: str, exits: int, classes: int) -> None:
        self._keys = keys
        self._fields = {"fleet": fleet, "cohort": cohort, "bundle": bundle, "exits": exits, "classes": classes}
        self._known: dict[tuple[str, bytes], PolicyDocument | Rejection] = {}

    def verify(self, device: str, envelope: bytes, *, for_device: bool) -> PolicyDocument | Rejection:
        """Return the document for a device, or why it rejects the envelope.

        `for_device`: the policy arrived on the topic of this device, so that the result is for no other one.
        """
        key = device if for_device else "", envelope
        found = self._known.get(key)
        if found is None:
            recipient = Recipient(device=device, **self._fields)  # type: ignore[arg-type]  # names to values
            found = verify_policy(envelope, self._keys, recipient)
            while len(self._known) >= _MAX_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[key] = found
        return found
