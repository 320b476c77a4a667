"""Where the broker is and how a client authenticates: the `[broker]` table of a configuration file."""

from typing import Final
from urllib.parse import urlsplit

import msgspec

from edgeexit.errors import ConfigError

_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}


class BrokerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Address and credentials for the broker."""

    url: str = "mqtt://127.0.0.1:1883"
    """`mqtt://HOST[:PORT]`, or `mqtts://HOST[:PORT]` for TLS."""
    ca_file: str | None = None
    """PEM file of the authority that signed the broker's certificate; default: the system's authorities."""
    certificate_file: str | None = None
    key_file: str | None = None
    """Certificate and private key of this client, for mutual TLS."""
    username: str | None = None
    password_file: str | None = None
    """The first line of this file is the password, so that no configuration and no log contains it."""

    def __post_init__(self) -> None:
        """Raise ValueError if the URL contains credentials, because the URL is logged."""
        if "@" in urlsplit(self.url).netloc:
            raise ValueError("a broker url must not contain credentials; use username and password_file")

    def endpoint(self) -> tuple[str, int, bool]:
        """Return host, port and whether to use TLS. Raises ConfigError if `url` is not an MQTT URL."""
        try:
            parts = urlsplit(self.url)
            port = parts.port or _PORTS.get(parts.scheme, 0)
        except ValueError as error:
            raise ConfigError(f"broker url '{self.url}': {error}") from error
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ConfigError(f"broker url '{self.url}' must be mqtt://HOST[:PORT] or mqtts://HOST[:PORT]")
        return parts.hostname, port, parts.scheme == "mqtts"
