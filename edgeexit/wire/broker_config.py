"""Where the broker is and how a client authenticates: the `[broker]` table of a configuration file."""

from ipaddress import ip_address
from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec

from edgeexit.errors import ConfigError

_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
_FileName = Annotated[str, msgspec.Meta(min_length=1, pattern=r"^[^\x00]+\Z")]


class BrokerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Address and credentials for the broker."""

    url: str = "mqtt://127.0.0.1:1883"
    """`mqtt://HOST[:PORT]`, or `mqtts://HOST[:PORT]` for TLS."""
    ca_file: _FileName | None = None
    """PEM file of the authority that signed the broker's certificate; default: the system's authorities."""
    certificate_file: _FileName | None = None
    key_file: _FileName | None = None
    """Certificate and private key of this client, for mutual TLS."""
    username: str | None = None
    password_file: _FileName | None = None
    """The first line of this file is the password, so that no configuration and no log contains it."""

    def __post_init__(self) -> None:
        """Raise ValueError if the URL contains credentials, because it is logged, or if a setting has no effect."""
        parts = urlsplit(self.url)
        if "@" in parts.netloc:
            raise ValueError("a broker url must not contain credentials; use username and password_file")
        tls_files = [name for name in ("ca_file", "certificate_file", "key_file") if getattr(self, name) is not None]
        if tls_files and parts.scheme == "mqtt":
            names = " and ".join(tls_files)
            raise ValueError(
                f"{names} cannot be used with '{self.url}', which is not encrypted; write mqtts:// for TLS, or remove "
                f"{names}"
            )
        if self.key_file is not None and self.certificate_file is None:
            raise ValueError("key_file needs certificate_file, the certificate of this key")
        if self.password_file is not None and self.username is None:
            raise ValueError("password_file needs username")

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

    def password_warning(self) -> str | None:
        """Return a warning if the password would cross a network without encryption, else None."""
        host, _, encrypted = self.endpoint()
        if encrypted or self.password_file is None or _is_this_machine(host):
            return None
        return (
            f"the password for the broker at '{host}' is sent without encryption, because its url is '{self.url}'; "
            "write mqtts:// for TLS"
        )


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")  # RFC 6761, section 6.3
