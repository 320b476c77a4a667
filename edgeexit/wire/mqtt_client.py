"""The MQTT client of one connection: paho's client, whose sockets and errors the connection needs to see."""

import logging
import socket
from typing import Any, ClassVar, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, LogLevel, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgeexit.wire.broker_config import BrokerConfig, BrokerEndpoint, first_line
from edgeexit.wire.broker_limits import BrokerLimits
from edgeexit.wire.buffered_socket import BufferedSocket
from edgeexit.wire.messages import MAX_BYTES
from edgeexit.wire.packet_codec import KEPT_BYTES
from edgeexit.wire.reconnecting import Version
from edgeexit.wire.session_options import SessionOptions
from edgeexit.wire.tcp_connection import ConnectGuard, open_connection
from edgeexit.wire.tls_context import tls_context

_HANDSHAKE_TIMEOUT_S: Final = 30.0
"""Seconds for the TLS handshake: at 1 kB/s the certificates alone take several seconds."""
MAX_PACKET: Final = 4 * MAX_BYTES
"""The content of a message in a larger packet is skipped; any other larger packet ends the connection."""
_CHUNK_BYTES: Final = 64 * 1024
_PUBLISH: Final = 0x30
_FIRST_BYTES: Final = 8


class MqttClient(paho.Client):
    """Connects once, and never again: a new connection has a new client, so nothing of an old one is sent again.

    Args:
        config: where the broker is.
        options: options of the session.
        version: version of MQTT.
        guard: can end the attempt to connect.
        will_limits: what the broker accepts of a will.

    """

    reads_per_step: ClassVar[int] = 64
    """Maximum number of calls of `loop_read` before the event loop writes again."""

    def __init__(
        self,
        config: BrokerConfig,
        options: SessionOptions,
        version: Version,
        guard: ConnectGuard,
        *,
        will_limits: BrokerLimits,
    ) -> None:
        self.version5: Final = version == "5"
        self.tcp_connected = False
        self.packets = 0
        """Number of packets that have arrived."""
        self.first_packet = b""
        """The start of the first packet from the broker."""
        self._config = config
        self._options = options
        self._guard = guard
        self._buffered: BufferedSocket | None = None
        self._endpoint: BrokerEndpoint = config.endpoint()
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=options.client_id,
            clean_session=None if self.version5 else options.session_expiry_s == 0,
            protocol=MQTTProtocolVersion.MQTTv5 if self.version5 else MQTTProtocolVersion.MQTTv311,
            transport="tcp" if self._endpoint.path is None else "websockets",
            reconnect_on_failure=False,  # otherwise paho reconnects by itself, with MQTT 3.1
            manual_ack=options.manual_ack,
        )
        self._errors = _ErrorHandler()
        logger = logging.Logger(f"{__name__}.paho", logging.WARNING)  # noqa: LOG001 - one per connection, for its errors
        logger.addHandler(self._errors)
        self.enable_logger(logger)
        self.connect_timeout = _HANDSHAKE_TIMEOUT_S
        self.max_inflight_messages = 0  # the connection limits them
        # With this callback paho only queues a packet; without it, it also writes to the socket, from every thread.
        self.on_socket_register_write = lambda *_: None
        if options.will is not None:
            topic, payload = options.will
            properties = None
            if self.version5 and options.will_delay_s:
                properties = Properties(PacketTypes.WILLMESSAGE)  # type: ignore[no-untyped-call]
                properties.WillDelayInterval = options.will_delay_s
            self.will_set(topic, payload, min(1, will_limits.max_qos), will_limits.retain, properties)

    @property
    def socket_error(self) -> BaseException | None:
        """The first exception of the socket after the connect; paho only logs it."""
        return self._errors.first

    @property
    def http_status(self) -> str:
        """The first line of the response to a WebSocket request; "" if there is none."""
        return "" if self._buffered is None else self._buffered.first_line

    @property
    def has_pending(self) -> bool:
        """True if received bytes wait in a buffer of TLS or of the WebSocket, where no event loop sees them."""
        connection = self._sock if self._buffered is None else self._buffered
        return connection is not None and hasattr(connection, "pending") and connection.pending() > 0

    @property
    def is_oversized(self) -> bool:
        """True if the present packet is larger than any that this client needs.

        It must not end the connection: a broker would deliver a message of a hostile client again, for ever.
        """
        return bool(self._in_packet["remaining_length"] > MAX_PACKET)

    @property
    def abuse(self) -> str | None:
        """What the broker does that would fill the memory: paho collects a packet, and all messages of QoS 2."""
        if self.is_oversized and self._in_packet["command"] & 0xF0 != _PUBLISH:
            return "the broker sends a packet that is larger than any that this client can need"
        if self._in_messages:
            return "the broker sends messages with QoS 2, which this client has not subscribed to"
        return None

    def open(self) -> None:
        """Connect and queue the CONNECT packet. Blocks; raises OSError, ValueError, or ConfigError."""
        config, endpoint, options = self._config, self._endpoint, self._options
        if endpoint.tls:
            self.tls_set_context(tls_context(config))
        if endpoint.path is not None:
            self.ws_set_options(endpoint.path)
        if config.username is not None:
            file = config.password_file
            self.username_pw_set(config.username, None if file is None else first_line("password_file", file))
        more: dict[str, Any] = {}
        if self.version5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = options.session_expiry_s
            properties.MaximumPacketSize = MAX_PACKET
            if options.receive_maximum is not None:
                properties.ReceiveMaximum = options.receive_maximum
            more = {"clean_start": options.session_expiry_s == 0, "properties": properties}
        self.connect(endpoint.host, endpoint.port, keepalive=options.keepalive_s, **more)

    def send_raw(self, packets: bytes) -> None:
        """Queue encoded packets that need no bookkeeping: PUBACK, or PUBLISH with QoS 0."""
        self._packet_queue(PacketTypes.PUBACK << 4, packets, 0, 0)

    def close(self) -> None:
        """Close the socket, without a DISCONNECT packet."""
        self._sock_close()

    def restart_ping_timeout(self) -> None:
        """Forget a PINGREQ that waits for its PINGRESP.

        paho ends a connection when the response is late, even while data arrives: on a slow link the response waits
        behind a large message. The caller does this when the link has moved data.
        """
        self._ping_t = 0.0

    def want_write(self) -> bool:
        """Return True if packets or parts of them wait to be sent."""
        return super().want_write() or (self._buffered is not None and self._buffered.is_blocked)

    def loop_write(self) -> MQTTErrorCode:
        """Send what waits, as far as the socket takes it."""
        if self._buffered is not None and self._buffered.is_blocked:
            try:
                self._buffered.flush()
            except OSError as error:
                self._easy_log(LogLevel.MQTT_LOG_ERR, "failed to send: %s", error)
                return self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_CONN_LOST)
            if self._buffered.is_blocked:
                return MQTTErrorCode.MQTT_ERR_SUCCESS
        return super().loop_write()

    def _create_socket_connection(self) -> Any:
        connection = open_connection(self._config, self._endpoint, self._guard)
        self.tcp_connected = True
        return connection if self._endpoint.tls else self._buffer(connection)

    def _ssl_wrap_socket(self, tcp_sock: socket.socket) -> Any:
        return self._buffer(super()._ssl_wrap_socket(tcp_sock))

    def _buffer(self, connection: socket.socket) -> Any:
        """Return the connection, with a buffer for the frames of a WebSocket."""
        if self._endpoint.path is None:
            return connection
        self._buffered = BufferedSocket(connection)
        return self._buffered

    def _sock_recv(self, bufsize: int) -> bytes:
        if self.is_oversized:
            del self._in_packet["packet"][KEPT_BYTES:]
            bufsize = min(bufsize, _CHUNK_BYTES)
        return super()._sock_recv(bufsize)

    def _packet_handle(self) -> MQTTErrorCode:
        self.packets += 1
        if not self.first_packet:
            packet = self._in_packet
            start = bytes(packet["packet"][:_FIRST_BYTES])
            self.first_packet = bytes([packet["command"], min(packet["remaining_length"], 255)]) + start
        return super()._packet_handle()


class _ErrorHandler(logging.Handler):
    """Keeps the first exception that paho logs as the argument of an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.first: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the exception of the record."""
        if self.first is None and isinstance(record.args, tuple):
            self.first = next((one for one in record.args if isinstance(one, BaseException)), None)
