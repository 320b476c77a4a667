"""The operator's view: records the states that devices publish, and publishes signed policies."""

import threading

import paho.mqtt.client as paho

from edgeexit.bundle import Bundle
from edgeexit.errors import MessageError
from edgeexit.policies import PolicyDocument, Scope, encode_document
from edgeexit.policies.confidence import Confidence
from edgeexit.policies.document import PAYLOAD_TYPE
from edgeexit.signing import PrivateKey, sign
from edgeexit.wire import DeviceAddress, State, decode, down_topic, parse_up_topic
from edgeexit.wire.topics import ROOT

FLEET = "chaos"


class Watcher:
    """Records every `up/state` of the fleet, in order of arrival. It is a plain paho client, and reconnects."""

    def __init__(self, port: int, bundle: Bundle, key: PrivateKey) -> None:
        self.lower: list[str] = []
        """One line for each state whose accepted revision is lower than an earlier one of the same device."""
        self._bundle = bundle
        self._key = key
        self._lock = threading.Lock()
        self._states: dict[str, State] = {}
        self._accepted: dict[str, int] = {}
        self._wanted: dict[str, bytes] = {}
        """Topic -> retained message; published again after a reconnect, as the calibrator does."""
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="chaos-watcher", protocol=paho.MQTTv5)
        self._client.on_message = self._record
        self._client.on_connect = self._connected
        self._client.reconnect_delay_set(min_delay=1, max_delay=1)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()

    def state(self, device: str) -> State | None:
        """Return the newest state of a device, online or not."""
        with self._lock:
            return self._states.get(device)

    def accepted(self, device: str) -> int:
        """Return the highest accepted revision that a device has published."""
        with self._lock:
            return self._accepted.get(device, 0)

    def publish_policy(self, address: DeviceAddress, revision: int) -> None:
        """Publish a signed policy for one device, retained."""
        exits = len(self._bundle.manifest.stages)
        document = PolicyDocument(
            revision=revision,
            bundle=self._bundle.digest,
            scope=Scope(fleet=FLEET, device=address.device),
            policy=Confidence(temperatures=(1.0,) * exits, thresholds=(0.4,) * (exits - 1)),
        )
        topic = down_topic(address, "policy")
        envelope = sign(encode_document(document), payload_type=PAYLOAD_TYPE, keys=[self._key])
        with self._lock:
            self._wanted[topic] = envelope
        self._client.publish(topic, envelope, qos=1, retain=True)

    def _connected(self, client: paho.Client, *_: object) -> None:
        client.subscribe(f"{ROOT}/{FLEET}/+/+/up/state", qos=1)
        with self._lock:
            wanted = dict(self._wanted)
        for topic, envelope in wanted.items():
            client.publish(topic, envelope, qos=1, retain=True)

    def _record(self, _client: paho.Client, _user: object, message: paho.MQTTMessage) -> None:
        try:
            address, _ = parse_up_topic(message.topic)
            state = decode(message.payload, State)
        except MessageError as error:
            self.lower.append(f"a state that cannot be decoded: {error}")
            return
        with self._lock:
            self._states[address.device] = state
            if not state.online:
                return  # a will has the content of the moment of the connect
            highest = self._accepted.get(address.device, 0)
            if state.accepted < highest:
                self.lower.append(f"{address.device}: accepted {state.accepted} after {highest}")
            self._accepted[address.device] = max(highest, state.accepted)
