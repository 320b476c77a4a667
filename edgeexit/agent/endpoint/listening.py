"""The sockets that the endpoint listens on: TCP, a Unix domain socket, or both."""

import errno
import ipaddress
import os
import socket
import stat
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from edgeexit.agent.config import EndpointConfig
from edgeexit.errors import ConfigError

_SOCKET_MODE: Final = 0o660
_MAX_PATH_BYTES: Final = 107
_ADVICE: Final = {
    errno.EADDRINUSE: "stop the process that listens there, or set another host or port",
    errno.EADDRNOTAVAIL: "set host to an address of this device",
    errno.EACCES: "set a port of at least 1024",
}


class LocalSocket:
    """A Unix domain socket and its file, which is removed when the socket is closed."""

    def __init__(self, path: Path, backlog: int) -> None:
        self.path = path
        self._removed = False
        _remove_stale(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.socket.bind(str(path))
            self._file = _identity(path)
            path.chmod(_SOCKET_MODE)  # nobody can connect before `listen`
            self.socket.listen(backlog)
        except OSError as error:
            self.socket.close()
            raise ConfigError(
                f"endpoint: socket '{path}' cannot be created ({error.strerror}); set socket under [endpoint] to a "
                "path in an existing folder that the agent may write to"
            ) from error

    def remove(self) -> None:
        """Remove the file, unless another one is there by now."""
        if not self._removed and _identity(self.path) == self._file:
            self.path.unlink(missing_ok=True)
        self._removed = True


class Listeners:
    """The open sockets of an endpoint; a context manager that closes them."""

    def __init__(self, tcp: Sequence[socket.socket], local: LocalSocket | None) -> None:
        self.tcp = tuple(tcp)
        self.local = local

    def __enter__(self) -> "Listeners":
        """Return the listeners."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the sockets, and remove the file of the Unix domain socket."""
        self.close()

    def close(self) -> None:
        """Close the sockets, and remove the file of the Unix domain socket."""
        for opened in self.tcp:
            opened.close()
        if self.local is not None:
            self.local.remove()
            self.local.socket.close()

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """All listening sockets."""
        return self.tcp if self.local is None else (*self.tcp, self.local.socket)

    @property
    def addresses(self) -> tuple[str, ...]:
        """What to log: `http://HOST:PORT`, and the path of the Unix domain socket."""
        tcp = (f"http://{address_of(self.tcp[0])}",) if self.tcp else ()
        return tcp if self.local is None else (*tcp, f"socket '{self.local.path}'")


def listen(config: EndpointConfig) -> Listeners:
    """Open the sockets of an endpoint; clients that connect wait until it serves.

    Raises ConfigError if the host does not resolve, or an address or path is not available.
    """
    tcp = _listen_tcp(config) if config.tcp else []
    try:
        local = None if config.socket is None else LocalSocket(config.socket, config.max_connections)
    except BaseException:
        for opened in tcp:
            opened.close()
        raise
    return Listeners(tcp, local)


def address_of(opened: socket.socket) -> str:
    """Return the address of a TCP socket for a URL: `HOST:PORT`, or `[HOST]:PORT` for IPv6."""
    host, port = opened.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Return True if only this machine reaches a host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen_tcp(config: EndpointConfig) -> list[socket.socket]:
    """Listen on every address of the host; with port 0, all of them share the port that the first one gets."""
    opened: list[socket.socket] = []
    port = config.port
    try:
        found = socket.getaddrinfo(config.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
            if family not in {socket.AF_INET, socket.AF_INET6}:
                continue
            one = socket.socket(family, socket.SOCK_STREAM)
            opened.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind((address[0], port, *address[2:]))
            one.listen(config.max_connections)
            port = port or one.getsockname()[1]
    except socket.gaierror as error:
        raise ConfigError(
            f"endpoint: host '{config.host}' does not resolve; set host to an address of this device under [endpoint]"
        ) from error
    except OSError as error:
        for one in opened:
            one.close()
        raise ConfigError(
            f"endpoint: port {config.port} on {config.host} is not available ({error.strerror}); "
            f"{_ADVICE.get(error.errno or 0, 'set another host or port')} under [endpoint]"
        ) from error
    return opened


def _remove_stale(path: Path) -> None:
    """Remove a socket file that no process listens on. Raises ConfigError for anything else at this path."""
    if len(os.fsencode(path)) > _MAX_PATH_BYTES:
        raise ConfigError(
            f"endpoint: socket '{path}' is too long for the path of a socket; use at most {_MAX_PATH_BYTES} bytes"
        )
    try:
        mode = path.lstat().st_mode
    except OSError:
        return  # missing, or `bind` reports what is wrong
    if not stat.S_ISSOCK(mode):
        raise ConfigError(
            f"endpoint: socket '{path}' exists and is not a socket; remove it, or set another path under [endpoint]"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1)
        try:
            client.connect(str(path))
        except ConnectionRefusedError:  # no process listens
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise ConfigError(
                f"endpoint: socket '{path}' exists and cannot be checked ({error.strerror or error}); remove it, or "
                "set another path under [endpoint]"
            ) from error
    raise ConfigError(
        f"endpoint: another process listens on socket '{path}'; stop it, or set another path under [endpoint]"
    )


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
