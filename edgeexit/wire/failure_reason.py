"""Describes in one line why a connection to the broker failed: from exceptions, and from bytes that are not MQTT."""

import socket
import ssl
from typing import Final

from paho.mqtt.client import WebsocketConnectionError

from edgeexit.errors import EdgeExitError
from edgeexit.log_text import one_line
from edgeexit.wire.broker_config import BrokerEndpoint
from edgeexit.wire.tcp_connection import ProxyError

_ALERT_HINTS: Final = {
    "unknown ca": "the broker does not trust the authority that signed certificate_file",
    "bad certificate": "the broker does not accept certificate_file",
    "certificate required": "set certificate_file and key_file",
    "handshake failure": "the broker may require a certificate: set certificate_file and key_file",
    "certificate expired": "certificate_file has expired; or the clock of the broker is wrong",
    "certificate revoked": "certificate_file was revoked",
    "certificate unknown": "the broker does not accept certificate_file",
    "protocol version": "the broker supports none of the TLS versions of this client",
}
"""TLS alert of the broker -> what to do."""
_CERTIFICATE_HINTS: Final = {
    "certificate has expired": "is the clock of this device right?",
    "certificate is not yet valid": "is the clock of this device right?",
    "unable to get local issuer certificate": "set ca_file to the authority that signed it",
    "self-signed certificate": "set ca_file to this certificate, or to the authority that signed it",
    "self-signed certificate in certificate chain": "set ca_file to the authority that signed it",
}
"""Why the client does not accept the broker's certificate -> what to do."""
_CLOSED_BY_TLS: Final = "the broker closed the connection after the TLS handshake"
_NOT_TLS: Final = "does the broker speak TLS on this port? If not, write mqtt:// or ws://"
_TLS_ALERT: Final = 0x15


def failure_reason(
    error: BaseException,
    endpoint: BrokerEndpoint,
    *,
    tcp_connected: bool,
    handshake_done: bool = False,
    http_status: str = "",
) -> str:
    """Return one line that names the reason of a failed attempt to connect, or of the end of a connection.

    `tcp_connected` and `handshake_done` (TLS, WebSocket) say how far the attempt had come; `http_status` is the answer
    to a WebSocket request.
    """
    text: str
    if isinstance(error, EdgeExitError | ProxyError):
        text = str(error)
    elif isinstance(error, WebsocketConnectionError):
        answer = f": the server answers '{http_status}'" if http_status else ""
        text = f"WebSocket handshake error{answer}; does the broker accept WebSockets at path '{endpoint.path}'?"
    elif isinstance(error, ssl.SSLCertVerificationError):
        text = error.verify_message.rstrip(".")
        text = f"the broker's certificate is not accepted: {_with_hint(text, _CERTIFICATE_HINTS)}"
    elif isinstance(error, ssl.SSLError):
        text = _tls_reason(error, handshake_done=handshake_done)
    elif isinstance(error, socket.gaierror):
        text = f"cannot resolve the host name '{endpoint.host}': {error.strerror}"
    elif isinstance(error, TimeoutError):
        text = "timeout in the TLS or WebSocket handshake" if tcp_connected else "no answer from the host"
    elif isinstance(error, ConnectionError) and tcp_connected and endpoint.tls:
        text = _CLOSED_BY_TLS if handshake_done else f"connection closed during the TLS handshake; {_NOT_TLS}"
    elif isinstance(error, ConnectionRefusedError):
        text = "connection refused: nothing listens on this port"
    elif isinstance(error, OSError):
        text = error.strerror or str(error) or type(error).__name__
    else:
        text = f"{type(error).__name__}: {error}"
    return one_line(text)


def foreign_protocol(first_bytes: bytes) -> str | None:
    """Return which protocol other than MQTT the server speaks, by the first bytes that it sent."""
    if first_bytes.startswith(b"HTTP/"):
        return "the server speaks HTTP; is this the broker's port? For WebSockets, write ws:// or wss://"
    if first_bytes[:1] == bytes([_TLS_ALERT]) and first_bytes[1:2] == b"\x03":
        return "the broker expects TLS on this port; write mqtts://"
    return None


def _tls_reason(error: ssl.SSLError, *, handshake_done: bool) -> str:
    reason = error.reason or ""
    if "ALERT_" in reason:
        alert = reason.split("ALERT_", 1)[1].replace("_", " ").lower()
        return f"the broker ended the TLS connection: {_with_hint(alert, _ALERT_HINTS)}"
    if isinstance(error, ssl.SSLEOFError) or reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        return _CLOSED_BY_TLS if handshake_done else f"the TLS handshake failed; {_NOT_TLS}"
    return f"TLS error: {reason.replace('_', ' ').lower() or error}"


def _with_hint(text: str, hints: dict[str, str]) -> str:
    hint = hints.get(text)
    return text if hint is None else f"{text}; {hint}"
