"""Connects the agent to its fleet: sends state, reports, audits and profile; receives acks, and passes on the rest.

All work is done in the network thread of the MQTT session and in the thread of the link. Inference waits for neither.
"""

import contextlib
import logging
import math
import queue
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from edgeexit.agent.config import AgentConfig
from edgeexit.agent.fleet_link.identity import DeviceIdentity
from edgeexit.agent.fleet_link.sender import OutboxSender
from edgeexit.agent.outbox.outbox import Outbox
from edgeexit.errors import MessageError
from edgeexit.limited_log import LimitedLog
from edgeexit.wire import (
    MAX_BYTES,
    Ack,
    BrokerSession,
    Delivery,
    Message,
    Publication,
    SessionOptions,
    State,
    UpKind,
    decode,
    down_topic,
    encode,
    up_topic,
)

_log = logging.getLogger(__name__)

_INBOX_SIZE: Final = 100
_MAX_WAIT_S: Final = 60.0
_MAX_STATE_S: Final = 30.0
"""Maximum time for which messages wait until the broker has acknowledged the state."""
_LAST_SEND_S: Final = 2.0
"""Maximum time for which `stop` waits until the broker has the last messages."""


class FleetLink:
    """Connects to the broker, sends the messages of the outbox, and dispatches the messages that arrive.

    Args:
        config: who this device is and where its broker is.
        outbox: the messages to deliver.
        identity: signs the audits.
        state: returns the state to publish, for `online` True or False.
        collect: called every `report_interval_s`; adds reports and audits to the outbox.
        receivers: topic -> receives its messages in the network thread, and must return at once.

    `state` and `collect` run in the link's thread, and `state` also in the thread that creates or stops the link.

    """

    def __init__(
        self,
        config: AgentConfig,
        *,
        outbox: Outbox,
        identity: DeviceIdentity,
        state: Callable[[bool], State],
        collect: Callable[[], None],
        receivers: Mapping[str, Callable[[bytes], None]],
    ) -> None:
        self._config = config
        self._outbox = outbox
        self._state = state
        self._collect = collect
        self._receivers = receivers
        address = config.address
        self._ack_topic = down_topic(address, "ack")
        self._inbox: queue.Queue[Delivery | None] = queue.Queue(_INBOX_SIZE)
        self._limited = LimitedLog(_log)
        self._reconnected = threading.Event()
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._profile: Message | None = None
        self._state_lock = threading.Lock()
        self._published: Publication | None = None
        """The newest state that was published since the last connect."""
        self._state_due = 0.0
        """Time until which messages wait for its PUBACK, after a connect."""
        self._thread = threading.Thread(target=self._run, name="agent-link", daemon=True)
        self._session = BrokerSession(
            config.broker,
            SessionOptions(
                client_id=f"edgeexit.{address.fleet}.{address.shard}.{address.device}",
                subscriptions=(self._ack_topic, *receivers),
                session_expiry_s=0,  # an offline device misses nothing: policies are retained, acks are repeated
                will=(up_topic(address, "state"), encode(_without_problems(state(False)))),  # noqa: FBT003 - `online`
            ),
            on_message=self._enqueue,
            on_connect=self._handle_connect,
            on_progress=self.wake,
        )
        self._sender = OutboxSender(outbox, self._session, identity, address=address, resend_s=config.resend_s)

    @property
    def connected(self) -> bool:
        """True while the agent is connected to the broker."""
        return self._session.connected

    @property
    def problem(self) -> str | None:
        """One line: why the agent is not connected, or what the broker does not allow; None if all is well."""
        return self._session.problem

    @property
    def unacknowledged(self) -> int:
        """Number of messages in the outbox; does not read the disk."""
        return self._outbox.count

    def start(self) -> None:
        """Start to connect in the background."""
        self._thread.start()
        self._session.start()

    def stop(self) -> None:
        """Collect and send a last time, publish the offline state, and disconnect."""
        self._stopping.set()
        self.wake()
        self._thread.join(timeout=5)
        self._publish_state(online=False)
        self._session.stop()
        self._limited.close()

    def wake(self) -> None:
        """Wake the link's thread, so that it sends the messages of the outbox now."""
        if not self._woken.is_set():
            self._woken.set()
            with contextlib.suppress(queue.Full):  # the thread is awake if the inbox is full
                self._inbox.put_nowait(None)

    def publish_state(self) -> None:
        """Publish the device's state, retained."""
        self._publish_state(online=True)

    def publish_profile(self, profile: Message) -> None:
        """Publish a latency profile, retained, now and after every reconnect."""
        self._profile = profile
        self._publish("profile", profile)

    def _publish_state(self, *, online: bool) -> None:
        with self._state_lock:  # a state of another thread must not be followed by an older one
            state = self._state(online)
            publication = self._publish("state", state)
            if publication is None and state.problems:  # without these texts, it may be small enough
                publication = self._publish("state", _without_problems(state))
            if publication is not None:
                self._published = publication

    def _publish(self, kind: UpKind, message: Message) -> Publication | None:
        """Publish a retained message; return None if there is no connection, or the broker takes none of this size."""
        try:
            return self._session.publish(up_topic(self._config.address, kind), encode(message), retain=True)
        except MessageError as error:
            self._limited.warning(("size", kind), "the %s is not published: %s", kind, error)
            return None

    def _handle_connect(self) -> None:
        self._reconnected.set()
        self.wake()

    def _enqueue(self, delivery: Delivery) -> None:
        """Queue a message; called in the network thread.

        A message that is too large is cut to `MAX_BYTES` + 1 bytes, so that it is rejected later because of its size.
        """
        if len(delivery.payload) > MAX_BYTES:
            delivery = msgspec.structs.replace(delivery, payload=delivery.payload[: MAX_BYTES + 1])
        if (receive := self._receivers.get(delivery.topic)) is not None:
            receive(delivery.payload)
            return
        try:
            self._inbox.put_nowait(delivery)
        except queue.Full:
            self._limited.warning("inbox", "message on '%s' dropped: the inbox is full", delivery.topic)

    def _run(self) -> None:
        interval_s = self._config.report_interval_s
        report_due = time.monotonic() + interval_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads a fleet's reports
        due = report_due
        while not self._stopping.is_set():
            self._receive(min(due, report_due) - time.monotonic())
            now = time.monotonic()
            try:
                if now >= report_due:
                    report_due = now + interval_s
                    self._collect()
                    self._outbox.maintain(now)
                    self._limited.flush()
                    self._sender.flush_log()
                elif self._outbox.in_memory and now >= self._outbox.maintain_at:
                    self._outbox.maintain(now)
                due = min(self._send(), self._outbox.maintain_at if self._outbox.in_memory else math.inf)
            except Exception as error:  # noqa: BLE001 - one message that fails must not end the thread
                self._limited.error(
                    type(error).__name__, "reports and audits could not be collected or sent; retrying", exc_info=error
                )
                due = now + self._config.resend_s
        try:
            self._collect()
            self._outbox.maintain(math.inf)
            self._send_last()
        except Exception:  # noqa: BLE001 - the agent must stop in any case
            _log.exception("the last reports and audits could not be collected or sent")

    def _receive(self, timeout_s: float) -> None:
        """Wait for an event, at most `timeout_s`; if it is an acknowledgement, apply it to the outbox."""
        with contextlib.suppress(queue.Empty):
            delivery = self._inbox.get(timeout=min(max(timeout_s, 0.0), _MAX_WAIT_S))
            self._woken.clear()
            if delivery is not None:
                try:
                    self._sender.acknowledge(decode(delivery.payload, Ack), time.monotonic())
                except Exception as error:  # noqa: BLE001 - one message that fails must not end the thread
                    self._limited.warning(
                        ("ack", type(error).__name__), "message on '%s' ignored: %s: %s",
                        delivery.topic, type(error).__name__, error,
                    )  # fmt: skip

    def _send(self) -> float:
        """Send what is due; return the monotonic time at which something is due again."""
        now = time.monotonic()
        self._sender.update(now)
        if not self.connected:
            return math.inf
        if self._reconnected.is_set():
            self._reconnected.clear()
            self._outbox.forget_too_large()
            self._published = None
            self.publish_state()
            if self._profile is not None:
                self.publish_profile(self._profile)
            self._state_due = now + _MAX_STATE_S
        # The state goes first, and its PUBACK shows that the connection works. A broker that does not even take a state
        # of this size gets nothing, so that a wrong limit does not make the device drop its messages.
        if self._published is None:
            return math.inf
        if not self._published.done and now < self._state_due:
            return self._state_due
        self._state_due = now
        return self._sender.send(now)

    def _send_last(self) -> None:
        """Send until the broker has everything that may be sent now, or until the time is over."""
        deadline = time.monotonic() + _LAST_SEND_S
        self._send()
        while self.connected and self._session.unacked_bytes and (left_s := deadline - time.monotonic()) > 0:
            self._receive(left_s)
            self._send()


def _without_problems(state: State) -> State:
    """Return a small state: a CONNECT with a large will might be refused, and problems pass while a will waits."""
    return msgspec.structs.replace(state, problems=())
