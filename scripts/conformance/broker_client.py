"""Connections of the test itself to the broker."""

import secrets
import threading
from collections.abc import Callable
from typing import Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edgeexit.errors import MessageError

MQTT_5: Final = MQTTProtocolVersion.MQTTv5
MQTT_311: Final = MQTTProtocolVersion.MQTTv311
_PATIENCE_S: Final = 5.0

Broker = tuple[str, int]
"""Host and port."""


def new_client(version: MQTTProtocolVersion) -> paho.Client:
    """Return a client with an id of its own that has not connected."""
    return paho.Client(CallbackAPIVersion.VERSION2, f"conformance-{secrets.token_hex(4)}", protocol=version)


def speaks(broker: Broker, version: MQTTProtocolVersion) -> bool:
    """Return True if the broker accepts a connection of this version."""
    answered, accepted = threading.Event(), threading.Event()

    def on_connect(_client: paho.Client, _user: object, _flags: object, code: object, _properties: object) -> None:
        if not getattr(code, "is_failure", True):
            accepted.set()
        answered.set()

    client = new_client(version)
    client.on_connect = on_connect
    client.on_disconnect = lambda *_: answered.set()
    client.connect(*broker)
    client.loop_start()
    answered.wait(_PATIENCE_S)
    client.disconnect()
    client.loop_stop()
    return accepted.is_set()


def subscribe(
    broker: Broker, version: MQTTProtocolVersion, topics: str, receive: Callable[[paho.MQTTMessage], None]
) -> paho.Client:
    """Return a connected client that passes what arrives to `receive`. Raises MessageError if it cannot subscribe."""
    ready = threading.Event()
    client = new_client(version)
    client.on_message = lambda _client, _user, message: receive(message)
    client.on_connect = lambda client, *_: client.subscribe(topics, qos=1)
    client.on_subscribe = lambda *_: ready.set()
    client.connect(*broker)
    client.loop_start()
    if not ready.wait(2 * _PATIENCE_S):
        raise MessageError(f"cannot subscribe to '{topics}' at the broker {broker[0]}:{broker[1]}")
    return client
