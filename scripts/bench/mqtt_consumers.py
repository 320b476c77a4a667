"""The MQTT clients that scripts/bench/mqtt_clients.py compares, each in a process of its own.

    python scripts/bench/mqtt_consumers.py NAME PORT VERSION SECONDS

Each counts the messages on `edgeexit/#` and acknowledges them as a consumer does that stores them first, if the client
can do that: after the callback. The result is one line of JSON.
"""

import asyncio
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

FILTER: Final = "edgeexit/#"
RECEIVE_MAXIMUM: Final = 2000
_WARM_UP_S: Final = 1.0


class Counter:
    """Number of received messages."""

    messages = 0


def session_batches(port: int, *, version5: bool, counter: Counter) -> None:
    """Receive batches with the broker session of edgeexit."""
    _session(port, version5=version5, counter=counter, batches=True)


def session_messages(port: int, *, version5: bool, counter: Counter) -> None:
    """Receive one message at a time with the broker session of edgeexit."""
    _session(port, version5=version5, counter=counter, batches=False)


def _session(port: int, *, version5: bool, counter: Counter, batches: bool) -> None:
    from edgeexit.wire import BrokerConfig, BrokerSession, Delivery, SessionOptions, reconnecting  # noqa: PLC0415

    def receive_batch(deliveries: list[Delivery]) -> None:
        counter.messages += len(deliveries)
        session.acknowledge(deliveries)

    def receive(delivery: Delivery) -> None:
        counter.messages += 1
        delivery.ack()

    options = SessionOptions(
        client_id="consumer",
        subscriptions=(FILTER,),
        session_expiry_s=0,
        manual_ack=True,
        receive_maximum=RECEIVE_MAXIMUM,
    )
    config = BrokerConfig(url=f"mqtt://127.0.0.1:{port}")
    session = BrokerSession(
        config, options, on_messages=receive_batch if batches else None, on_message=None if batches else receive
    )
    if not version5:
        session._reconnecting = reconnecting.Reconnecting()  # noqa: SLF001 - it would find a broker with MQTT 5
        session._reconnecting.version = "3.1.1"  # noqa: SLF001
    session.start()
    threading.Event().wait()


def paho(port: int, *, version5: bool, counter: Counter) -> None:
    """Receive with paho and its own event loop."""
    import paho.mqtt.client as mqtt  # noqa: PLC0415
    from paho.mqtt.packettypes import PacketTypes  # noqa: PLC0415
    from paho.mqtt.properties import Properties  # noqa: PLC0415

    def receive(client: mqtt.Client, _user: object, message: mqtt.MQTTMessage) -> None:
        counter.messages += 1
        client.ack(message.mid, message.qos)

    protocol = mqtt.MQTTv5 if version5 else mqtt.MQTTv311
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, "consumer", protocol=protocol, manual_ack=True)
    client.on_message = receive
    client.on_connect = lambda *_: client.subscribe(FILTER, 1)
    more: dict[str, Any] = {}
    if version5:
        more["properties"] = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        more["properties"].ReceiveMaximum = RECEIVE_MAXIMUM
    client.connect("127.0.0.1", port, **more)
    client.loop_forever()


def aiomqtt(port: int, *, version5: bool, counter: Counter) -> None:
    """Receive with aiomqtt, which uses paho; it acknowledges by itself."""
    import aiomqtt as module  # noqa: PLC0415

    async def receive() -> None:
        protocol = module.ProtocolVersion.V5 if version5 else module.ProtocolVersion.V311
        async with module.Client("127.0.0.1", port, identifier="consumer", protocol=protocol) as client:
            await client.subscribe(FILTER, qos=1)
            async for _ in client.messages:
                counter.messages += 1

    asyncio.run(receive())


def gmqtt(port: int, *, version5: bool, counter: Counter) -> None:
    """Receive with gmqtt; it acknowledges by itself."""
    from gmqtt import Client  # noqa: PLC0415
    from gmqtt.mqtt.constants import MQTTv50, MQTTv311  # noqa: PLC0415

    def receive(*_: object) -> int:
        counter.messages += 1
        return 0

    async def run() -> None:
        client = Client("consumer", **({"receive_maximum": RECEIVE_MAXIMUM} if version5 else {}))
        client.on_message = receive
        client.on_connect = lambda *_: client.subscribe(FILTER, qos=1)
        await client.connect("127.0.0.1", port, version=MQTTv50 if version5 else MQTTv311)
        await asyncio.Event().wait()

    asyncio.run(run())


def zmqtt(port: int, *, version5: bool, counter: Counter) -> None:
    """Receive with zmqtt and acknowledge each message."""
    from zmqtt import QoS, create_client  # noqa: PLC0415

    async def run() -> None:
        options: dict[str, Any] = {"version": "3.1.1"}
        if version5:
            options = {"version": "5.0", "receive_maximum": RECEIVE_MAXIMUM}
        client = create_client("127.0.0.1", port, client_id="consumer", **options)
        async with client, client.subscribe(FILTER, qos=QoS.AT_LEAST_ONCE, auto_ack=False) as messages:
            async for message in messages:
                counter.messages += 1
                await message.ack()

    asyncio.run(run())


def ohmqtt(port: int, *, version5: bool, counter: Counter) -> None:
    """Receive with ohmqtt (MQTT 5 only); it acknowledges by itself."""
    from ohmqtt import Client, MQTTConnectProps  # noqa: PLC0415

    _require_version5(version5=version5)

    def receive(*_: object) -> None:
        counter.messages += 1

    with Client() as client:
        client.subscribe(FILTER, receive, max_qos=1)
        properties = MQTTConnectProps(ReceiveMaximum=RECEIVE_MAXIMUM)
        client.connect(f"mqtt://127.0.0.1:{port}", client_id="consumer", connect_properties=properties)
        threading.Event().wait()


def awscrt(port: int, *, version5: bool, counter: Counter) -> None:
    """Receive with the native client of awscrt (MQTT 5 only) and acknowledge each message."""
    from awscrt import mqtt5  # noqa: PLC0415

    _require_version5(version5=version5)
    connected = threading.Event()

    def receive(data: Any) -> None:
        counter.messages += 1
        client.invoke_publish_acknowledgement(data.acquire_publish_acknowledgement_control())

    client = mqtt5.Client(
        mqtt5.ClientOptions(
            host_name="127.0.0.1",
            port=port,
            connect_options=mqtt5.ConnectPacket(client_id="consumer", receive_maximum=RECEIVE_MAXIMUM),
            on_publish_callback_fn=receive,
            on_lifecycle_event_connection_success_fn=lambda _: connected.set(),
            disable_metrics=True,
        )
    )
    client.start()
    connected.wait()
    client.subscribe(mqtt5.SubscribePacket([mqtt5.Subscription(FILTER, mqtt5.QoS.AT_LEAST_ONCE)])).result()
    threading.Event().wait()


def mqtt5(port: int, *, version5: bool, counter: Counter) -> None:
    """Receive with the native packet parser of mqtt5 (MQTT 5 only) and a loop on the socket."""
    import mqtt5 as module  # noqa: PLC0415

    _require_version5(version5=version5)
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(module.ConnectPacket("consumer", clean_start=True, receive_max=RECEIVE_MAXIMUM).write())
    topic = module.TopicFilter(FILTER, max_qos=module.QoS.AT_LEAST_ONCE)
    connection.sendall(module.SubscribePacket(1, [topic]).write())
    rest = b""
    while True:
        data = memoryview(rest + connection.recv(256 * 1024))
        acks, start = [], 0
        while start < len(data):
            try:
                packet, size = module.read(data[start:])
            except IndexError:
                break
            start += size
            if isinstance(packet, module.PublishPacket):
                acks.append(module.PubAckPacket(packet.packet_id).write())
        rest = bytes(data[start:])
        counter.messages += len(acks)
        connection.sendall(b"".join(acks))


def _require_version5(*, version5: bool) -> None:
    if not version5:
        raise NotImplementedError("this client has only MQTT 5")


CLIENTS: Final[dict[str, Callable[..., None]]] = {
    "edgeexit-batches": session_batches,
    "edgeexit-one-by-one": session_messages,
    "paho": paho,
    "aiomqtt": aiomqtt,
    "gmqtt": gmqtt,
    "zmqtt": zmqtt,
    "ohmqtt": ohmqtt,
    "awscrt": awscrt,
    "mqtt5-parser": mqtt5,
}


def _measure(seconds: float, counter: Counter) -> None:
    """Wait for the first message, warm up, measure, print the result and end the process."""
    while not counter.messages:
        time.sleep(0.01)
    time.sleep(_WARM_UP_S)
    messages, started, cpu_s = counter.messages, time.perf_counter(), time.process_time()
    time.sleep(seconds)
    wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu_s
    row = {"messages": counter.messages - messages, "wall_s": wall_s, "cpu_s": cpu_s}
    print(json.dumps(row), flush=True)
    os._exit(0)


def main() -> None:
    """Run one client until the measurement has ended."""
    name, port, version, seconds = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
    counter = Counter()
    threading.Thread(target=_measure, args=(seconds, counter), daemon=True).start()
    CLIENTS[name](port, version5=version == "5", counter=counter)


if __name__ == "__main__":
    main()
