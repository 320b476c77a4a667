"""The MQTT client of a session that takes its messages in batches: it reads the stream of packets in large pieces.

paho reads each packet in three or more calls of the socket, and does its bookkeeping for each message. This client
leaves to paho what is rare: CONNECT, TLS, WebSockets, the keepalive, and all packets but PUBLISH.
"""

import socket
import time
from typing import TYPE_CHECKING, Any, ClassVar, Final

from paho.mqtt import MQTTException
from paho.mqtt.enums import LogLevel, MQTTErrorCode

from edgeexit.wire.mqtt_client import MAX_PACKET, MqttClient
from edgeexit.wire.packet_codec import PUBLISH, Packet, PacketError, PacketStream, Publish, parse_publish

if TYPE_CHECKING:
    from collections.abc import Callable

_PIECE_BYTES: Final = 256 * 1024
_STEP_BYTES: Final = 1024 * 1024
"""Bytes that are read before the event loop writes again; they are one batch."""
_STEP_READS: Final = 1024
"""The same as a number of reads: TLS returns a record at a time, a WebSocket a frame."""
_INTERVAL_S: Final = 0.002
"""What arrives within this time is read at once: to wake up for a message costs as much as ten messages."""
_BUSY_INTERVAL_S: Final = 0.05
"""The same while the receiver has enough to do. The threads of several sessions disturb it at each read."""
_QOS_2: Final = 2


class BulkClient(MqttClient):
    """Reads all messages that have arrived, and calls `on_publishes` once for them; arguments as `MqttClient`."""

    reads_per_step: ClassVar[int] = 1

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.on_publishes: Callable[[list[Publish]], None] = lambda _: None
        self.is_receiver_busy: Callable[[], bool] = lambda: False
        self._stream = PacketStream(max_bytes=MAX_PACKET)
        self._problem: str | None = None
        self._next_read = 0.0

    @property
    def abuse(self) -> str | None:
        """What the broker has sent that ends the connection."""
        return self._problem or super().abuse

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:
        """Read and process what has arrived, up to a batch; until the CONNACK, as paho does."""
        if not self.packets:
            return super().loop_read(max_packets)
        if self._buffered is not None:
            self._buffered.reads_ahead = True
        wait_s = self._next_read - time.monotonic()
        if wait_s > 0:
            time.sleep(wait_s)
        publishes: list[Publish] = []
        try:
            return self._read_batch(publishes)
        except PacketError as error:
            self._problem = f"the broker sent a malformed packet: {error}"
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        finally:
            self.packets += len(publishes)
            if publishes:
                self.on_publishes(publishes)
            self._next_read = time.monotonic() + (_BUSY_INTERVAL_S if self.is_receiver_busy() else _INTERVAL_S)

    def _read_batch(self, publishes: list[Publish]) -> MQTTErrorCode:
        """Read pieces until nothing is left, and append the messages; return how the connection ended, or success."""
        room = _STEP_BYTES
        for _ in range(_STEP_READS):
            data = self._receive()
            if data is None:
                if self.has_pending:  # it was a control frame of the WebSocket
                    continue
                break
            if not data:
                return self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_CONN_LOST)
            with self._msgtime_mutex:
                self._last_bytes_received = time.monotonic()
            for packet in self._stream.feed(data):
                if packet.first >> 4 == PUBLISH:
                    message = parse_publish(packet, version5=self.version5)
                    if message.qos == _QOS_2:
                        raise PacketError("a message with QoS 2, which this client has not subscribed to")
                    publishes.append(message)
                elif (result := self._handle(packet)) or self._sock is None or self._problem:
                    return result
            room -= len(data)
            if room <= 0 or (len(data) < _PIECE_BYTES and type(self._sock) is socket.socket):
                break
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _receive(self) -> bytes | None:
        """Return bytes of the broker; None: there are none now; empty: the connection is lost."""
        try:
            return self._sock_recv(_PIECE_BYTES)
        except BlockingIOError:
            return None
        except OSError as error:
            self._easy_log(LogLevel.MQTT_LOG_ERR, "failed to receive: %s", error)
            return b""

    def _handle(self, packet: Packet) -> MQTTErrorCode:
        """Let paho process a packet that is not a message."""
        received = self._in_packet
        received["command"], received["packet"] = packet.first, bytearray(packet.body)
        received["remaining_length"] = len(packet.body)
        try:
            result = self._packet_handle()
        except MQTTException as error:
            self._problem = f"the broker sent a malformed packet: {error}"
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        finally:
            received["command"], received["packet"], received["remaining_length"] = 0, bytearray(), 0
        return self._loop_rc_handle(result) if result > 0 else result
