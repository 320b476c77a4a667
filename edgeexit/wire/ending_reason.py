"""Collects why a connection ended: the first reason is the cause, and the later ones are its consequences."""

from typing import Any, Final

from edgeexit.log_text import one_line
from edgeexit.wire.reconnecting import ConnectionEnd

_UNSUPPORTED_VERSION: Final = 0x84
_TAKEN_OVER: Final = 0x8E
_KEEPALIVE_TIMEOUT: Final = 0x8D
_RETAIN_NOT_SUPPORTED: Final = 0x9A
_QOS_NOT_SUPPORTED: Final = 0x9B
_OLD_UNSUPPORTED_VERSION: Final = 1
_CREDENTIALS: Final = (0x86, 0x87)
"""Reason codes of MQTT 5: bad user name or password, not authorized."""
_CONNACK: Final = 0x20
_CONNACK3_BYTES: Final = 4
_CONNACK3_CODES: Final = {
    1: "Unsupported protocol version",
    2: "Client identifier not valid",
    3: "Server unavailable",
    4: "Bad user name or password",
    5: "Not authorized",
}
"""Return codes of MQTT 3.1.1."""


class EndingReason:
    """The reason and the kind of the end of one connection.

    Args:
        client_id: id of this client.

    """

    def __init__(self, client_id: str) -> None:
        self._client_id = client_id
        self.text: str | None = None
        self.end: ConnectionEnd | None = None
        """The kind of the end, if a reason determines it."""
        self.taken_over = False
        self.retain_refused = False
        """True: the broker refuses a retained will."""
        self.qos_refused = False
        """True: the broker refuses the QoS of the will."""

    def add(self, text: str) -> None:
        """Add a reason; only the first one counts."""
        if self.text is None:
            self.text = one_line(text)

    def add_foreign(self, text: str) -> None:
        """Add that the other side does not speak MQTT."""
        self.end = self.end or ConnectionEnd.UNREACHABLE
        self.add(text)

    def add_connack(self, code: Any, properties: Any) -> None:
        """Add a CONNACK with an error; `code` and `properties` are paho's."""
        self.end = ConnectionEnd.UNSUPPORTED if code.value == _UNSUPPORTED_VERSION else ConnectionEnd.REFUSED
        self.retain_refused = code.value == _RETAIN_NOT_SUPPORTED
        self.qos_refused = code.value == _QOS_NOT_SUPPORTED
        self.add(f"{_with_reason_string(code, properties)}{self._hint(code.value)}")

    def add_old_connack(self, first_packet: bytes) -> None:
        """Add a CONNACK of MQTT 3.1.1 with an error, which paho cannot read if it has tried MQTT 5."""
        if self.text is None and first_packet[:1] == bytes([_CONNACK]) and len(first_packet) == _CONNACK3_BYTES:
            code = first_packet[3]
            if code:
                unsupported = code == _OLD_UNSUPPORTED_VERSION
                self.end = ConnectionEnd.UNSUPPORTED if unsupported else ConnectionEnd.REFUSED
                self.add(_CONNACK3_CODES.get(code, f"return code {code}"))

    def add_disconnect(self, code: Any, properties: Any, *, from_broker: bool) -> None:
        """Add a DISCONNECT from the broker, or the end that paho reports."""
        if from_broker:
            self.taken_over = code.value == _TAKEN_OVER
            self.add(f"{_with_reason_string(code, properties)}{self._hint(code.value)}")
        elif code.value == _KEEPALIVE_TIMEOUT:
            self.add("no answer to PINGREQ: the link or the broker is dead")

    def _hint(self, code: int) -> str:
        if code == _TAKEN_OVER:
            return f": another client uses the id '{self._client_id}'; is there a clone of this device?"
        return "; check username, password_file and the client's certificate" if code in _CREDENTIALS else ""


def _with_reason_string(code: Any, properties: Any) -> str:
    text = getattr(properties, "ReasonString", None)
    return f"{code} ({text})" if text else str(code)
