"""Publishes the fleet's signed key sets from a file, retained; a changed file is published without a restart."""

import base64
import logging
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from edgeexit.errors import SignatureError
from edgeexit.key_set import KEY_SET_TYPE, KeySet, decode_history, decode_key_set
from edgeexit.limited_log import LimitedLog
from edgeexit.signing import Envelope, PrivateKey, public_key_from_text, public_key_text, unverified, verify
from edgeexit.wire import BrokerSession, keys_topic
from edgeexit_calibration.publishing.retained import RetainedTopics

_log = logging.getLogger(__name__)


def read_key_sets(path: Path, *, fleet: str) -> tuple[bytes, KeySet]:
    """Return the content of a file of key sets and the newest set, which its own root keys must have signed.

    Whether it follows the sets before it is the decision of each device. Raises SignatureError if the file cannot be
    read, is not a history of key sets, is not signed, or is for another fleet.
    """
    try:
        history = path.read_bytes()
    except OSError as error:
        raise SignatureError(f"key set '{path}' cannot be read: {error.strerror or error}") from error
    try:
        envelope = decode_history(history)[-1]
        newest = decode_key_set(base64.b64decode(msgspec.json.decode(envelope, type=Envelope).payload))
        _verify_by_root(envelope, newest)
    except (SignatureError, ValueError, RecursionError) as error:  # msgspec's and base64's errors are ValueErrors
        raise SignatureError(f"key set '{path}': {error}") from error
    if newest.fleet != fleet:
        raise SignatureError(f"key set '{path}' is for fleet '{newest.fleet}', not for '{fleet}'")
    return history, newest


class PublishedKeySet:
    """Keeps the retained key set of a fleet equal to a file.

    Call `publish` and `reset` in one thread; `on_message` may be called in another one.

    Args:
        session: connection to the broker. It must pass messages on `keys_topic` to `on_message`.
        path: the file.
        fleet: the fleet.
        keys: sign the policies; a warning is logged if devices would not accept these.

    Raises SignatureError for an invalid file.

    """

    def __init__(self, session: BrokerSession, path: Path, *, fleet: str, keys: Sequence[PrivateKey]) -> None:
        self._session = session
        self._path = path
        self._repeats = LimitedLog(_log)
        self._fleet = fleet
        self._keys = keys
        self._topic = keys_topic(fleet)
        self._topics = RetainedTopics(session, what="key set of version")
        self._stamp = _stamp(path)
        self._history, self._newest = read_key_sets(path, fleet=fleet)
        self._warn()

    def reset(self) -> None:
        """Treat the key set as not published, because the broker may have lost its retained messages."""
        self._topics.reset()

    def on_message(self, topic: str, payload: bytes) -> None:
        """Compare a message on the topic with the published key set; if it replaced the set, publish again."""
        self._topics.on_message(topic, payload)

    def publish(self, *, now: datetime) -> None:
        """Publish the key set if the broker does not have it; read the file again if it has changed."""
        self._read_changes()
        if self._session.connected and self._topics.is_due(self._topic, self._newest.version):
            self._topics.send(self._topic, self._newest.version, self._history, now=now)

    def _read_changes(self) -> None:
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        try:
            history, newest = read_key_sets(self._path, fleet=self._fleet)
        except SignatureError as error:
            self._repeats.warning("file", "%s; version %d stays published", error, self._newest.version)
            return
        self._stamp = stamp
        if newest.version <= self._newest.version and newest != self._newest:
            _log.warning(
                "key set '%s': version %d does not follow version %d, which stays published, because devices refuse "
                "every set that is not newer; create one with `edgeexit keys set create --follows`",
                self._path,
                newest.version,
                self._newest.version,
            )
            return
        if history != self._history:
            _log.info("key set '%s': version %d is published now", self._path, newest.version)
            self._history, self._newest = history, newest
            self._warn()
            self._topics.reset()

    def _warn(self) -> None:
        """Warn of a key set with which devices could not follow, or would not accept this calibrator's policies."""
        try:
            _check_last_step(self._history)
        except SignatureError as error:
            _log.warning(
                "key set '%s': devices that trust the set before version %d refuse it: %s; let the root keys of that "
                "set sign it, too: `edgeexit keys set sign`",
                self._path,
                self._newest.version,
                error,
            )
        role = self._newest.roles["policy"]
        own = {public_key_text(key.public_key()) for key in self._keys}
        if len(own.intersection(role.keys)) < role.threshold:
            _log.warning(
                "key set '%s': devices accept policies with %d signature(s) of %d key(s), of which this calibrator has "
                "%d; give it the right --key",
                self._path,
                role.threshold,
                len(role.keys),
                len(own.intersection(role.keys)),
            )


def _verify_by_root(envelope: bytes, key_set: KeySet) -> None:
    """Raise SignatureError if the root keys of a key set have not signed an envelope of one."""
    root = key_set.roles["root"]
    keys = [public_key_from_text(key) for key in root.keys]
    verify(envelope, payload_type=KEY_SET_TYPE, keys=keys, threshold=root.threshold)


def _check_last_step(history: bytes) -> None:
    """Raise SignatureError if the root keys of the last set but one have not signed the last one."""
    envelopes = decode_history(history)
    for before, last in zip(envelopes[-2:-1], envelopes[-1:], strict=False):
        payload, _ = unverified(before, payload_type=KEY_SET_TYPE)
        _verify_by_root(last, decode_key_set(payload))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
