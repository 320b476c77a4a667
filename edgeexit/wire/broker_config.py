"""Where the broker is and how a client authenticates: the `[broker]` table of a configuration file."""

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final, NamedTuple
from urllib.parse import unquote, urlsplit

import msgspec

from edgeexit.errors import ConfigError

_PORTS: Final = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}
_ENCRYPTED: Final = {"mqtt": "mqtts", "ws": "wss"}
_WEBSOCKET_PATH: Final = "/mqtt"
_PROXY_PORT: Final = 3128
_TLS_FILES: Final = ("ca_file", "certificate_file", "key_file", "key_passphrase_file")
_FileName = Annotated[str, msgspec.Meta(min_length=1, pattern=r"^[^\x00]+\Z")]


class BrokerEndpoint(NamedTuple):
    """Where the broker listens."""

    host: str
    port: int
    tls: bool
    path: str | None = None
    """Path of the WebSocket; None: plain MQTT."""


class HttpProxy(NamedTuple):
    """An HTTP proxy that connects to the broker by CONNECT."""

    host: str
    port: int
    username: str | None


class BrokerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Address and credentials for the broker."""

    url: str = "mqtt://127.0.0.1:1883"
    """`mqtt://HOST[:PORT]`, or `mqtts://HOST[:PORT]` for TLS; `ws://HOST[:PORT][/PATH]` or `wss://HOST[:PORT][/PATH]`
    for WebSockets (path `/mqtt`)."""
    ca_file: _FileName | None = None
    """PEM file of the authority that signed the broker's certificate; default: the system's authorities."""
    certificate_file: _FileName | None = None
    key_file: _FileName | None = None
    """Certificate and private key of this client, for mutual TLS."""
    key_passphrase_file: _FileName | None = None
    """The first line of this file is the passphrase of an encrypted `key_file`."""
    username: str | None = None
    password_file: _FileName | None = None
    """The first line of this file is the password, so that no configuration and no log contains it."""
    proxy: str | None = None
    """`http://[USER@]HOST[:PORT]`: an HTTP proxy, which must allow CONNECT to the broker's port."""
    proxy_password_file: _FileName | None = None
    """The first line of this file is the password of the user in `proxy`."""

    def __post_init__(self) -> None:
        """Raise ValueError if a URL contains credentials, because it is logged, or if a setting has no effect."""
        parts = urlsplit(self.url)
        if "@" in parts.netloc:
            raise ValueError("a broker url must not contain credentials; use username and password_file")
        tls_files = [name for name in _TLS_FILES if getattr(self, name) is not None]
        if tls_files and parts.scheme in _ENCRYPTED:
            names = " and ".join(tls_files)
            raise ValueError(
                f"{names} cannot be used with '{self.url}', which is not encrypted; write "
                f"{_ENCRYPTED[parts.scheme]}:// for TLS, or remove {names}"
            )
        if self.key_file is not None and self.certificate_file is None:
            raise ValueError("key_file needs certificate_file, the certificate of this key")
        if self.key_passphrase_file is not None and self.certificate_file is None:
            raise ValueError("key_passphrase_file needs certificate_file and key_file")
        if self.password_file is not None and self.username is None:
            raise ValueError("password_file needs username")
        proxy = self.http_proxy()
        if self.proxy_password_file is not None and (proxy is None or proxy.username is None):
            raise ValueError("proxy_password_file needs the user in proxy, http://USER@HOST:PORT")

    def endpoint(self) -> BrokerEndpoint:
        """Return where the broker listens. Raises ConfigError if `url` is not the URL of a broker."""
        try:
            parts = urlsplit(self.url)
            port = parts.port or _PORTS.get(parts.scheme, 0)
        except ValueError as error:
            raise ConfigError(f"broker url '{self.url}': {error}") from error
        websocket = parts.scheme in ("ws", "wss")
        plain = parts.path in ("", "/")
        if parts.scheme not in _PORTS or not parts.hostname or parts.query or not (websocket or plain):
            raise ConfigError(
                f"broker url '{self.url}' must be mqtt://HOST[:PORT], mqtts://HOST[:PORT], ws://HOST[:PORT][/PATH] or "
                "wss://HOST[:PORT][/PATH]"
            )
        path = (_WEBSOCKET_PATH if plain else parts.path) if websocket else None
        if path is not None and not (path.isascii() and path.isprintable() and " " not in path):
            raise ConfigError(f"broker url '{self.url}': write spaces and other special characters of the path as %XX")
        return BrokerEndpoint(parts.hostname, port, parts.scheme in ("mqtts", "wss"), path)

    def http_proxy(self) -> HttpProxy | None:
        """Return the proxy to use; None: connect directly."""
        if self.proxy is None:
            return None
        parts = urlsplit(self.proxy)
        if parts.password is not None:
            raise ValueError("proxy must not contain a password; use proxy_password_file")
        if parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/") or parts.query:
            raise ValueError(f"proxy '{self.proxy}' must be http://[USER@]HOST[:PORT]")
        username = None if parts.username is None else unquote(parts.username)
        return HttpProxy(parts.hostname, parts.port or _PROXY_PORT, username)

    def password_warning(self) -> str | None:
        """Return a warning if the password would cross a network without encryption, else None."""
        endpoint = self.endpoint()
        if endpoint.tls or self.password_file is None or _is_this_machine(endpoint.host):
            return None
        return (
            f"the password for the broker at '{endpoint.host}' is sent without encryption, because its url is "
            f"'{self.url}'; write {_ENCRYPTED[urlsplit(self.url).scheme]}:// for TLS"
        )


def first_line(field: str, path: str) -> str:
    """Return the first line of a file with a secret. Raises ConfigError that names the field and the file."""
    try:
        with Path(path).open(encoding="utf-8") as file:
            return file.readline().rstrip("\r\n")
    except OSError as error:
        raise ConfigError(f"cannot read {field} '{path}': {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{field} '{path}' is not a text file (UTF-8)") from error


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")  # RFC 6761, section 6.3
