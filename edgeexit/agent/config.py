"""The agent's configuration: one TOML file, checked whole before anything starts."""

import platform
import re
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import Annotated, Final

import msgspec

from edgeexit.errors import ConfigError, MessageError, SignatureError
from edgeexit.policies.document import Fraction
from edgeexit.policies.document import Name as AnyName
from edgeexit.runtime import NotFinite
from edgeexit.signing import PublicKey, load_public_key
from edgeexit.toml_document import FieldError, TomlError, decode_toml
from edgeexit.wire import BrokerConfig, DeviceAddress, check_name

_TLS_FILES: Final = ("ca_file", "certificate_file", "key_file")
_BROKER_FILES: Final = (*_TLS_FILES, "password_file")

Name = Annotated[AnyName, msgspec.Meta(description="1 to 64 of A-Z a-z 0-9 _ -")]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


def host_device() -> str:
    """Return this machine's name, made fit to be a level of a topic."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", platform.node()).strip("-")[:64]
    return name or "device"


class EndpointConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the local endpoint listens, and what it takes from its clients."""

    enabled: bool | None = None
    """Null: when the agent runs as a service, and not while it replays a stream."""
    host: Annotated[str, msgspec.Meta(min_length=1)] = "127.0.0.1"
    """Address to listen on. Nobody has to log in, so anything else lets the whole network ask."""
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8080
    """0: a free one, told in the log."""
    max_body_bytes: Annotated[int, msgspec.Meta(ge=1024)] = 16 * 1024 * 1024
    """Of one request. Those that are under way together may hold four times as much."""
    max_requests: Annotated[int, msgspec.Meta(ge=1)] = 128
    """Requests in flight, from their headers to the last byte of the answer; more are told to come back."""
    max_connections: Annotated[int, msgspec.Meta(ge=1)] = 256
    """Connections at a time; more are told to come back."""
    idle_timeout_s: Seconds = 60.0
    """A connection on which no request's headers are complete after so long is closed."""
    transfer_timeout_s: Seconds = 30.0
    """Time for a body to come in, and for an answer to go out; after that the connection is closed."""

    def __post_init__(self) -> None:
        """Refuse times without an end (FieldError)."""
        for what in ("idle_timeout_s", "transfer_timeout_s"):
            if not isfinite(getattr(self, what)):
                raise FieldError("must be finite", what)


class AgentConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who a device is, whom it believes, and how it speaks to its fleet."""

    fleet: Name
    shard: Name = "s0"
    """Spreads a fleet over calibrator processes; any name will do."""
    device: Name = msgspec.field(default_factory=host_device)
    """Default: the machine's name."""
    cohort: Name = "default"
    state_dir: Path = Path("state")
    """Holds the stored policies and the outbox; made when it is not there."""
    trusted_keys: tuple[Path, ...] = ()
    """Public keys (.pub) whose policies are taken; with none, every policy that is sent is refused."""
    signed_bundle: bool = False
    """Whether the bundle, too, must be signed by a trusted key."""
    broker: BrokerConfig = BrokerConfig()
    audit_fraction: Fraction = 0.01
    """Share of samples that are run to full depth after their answer."""
    report_interval_s: Seconds = 60.0
    resend_s: Seconds = 30.0
    """What the calibrator has not acknowledged after this long is sent again."""
    outbox_max_bytes: Annotated[int, msgspec.Meta(ge=64 * 1024)] = 16 * 1024 * 1024
    """Bound of the messages that wait for the calibrator; past it the oldest audits go first."""
    feedback_window_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """How long the audits of an inference with an id wait for their labels; 0: until the next report."""
    fallback: bool = False
    """Whether another runtime or execution provider may stand in for the target's; see `runtime.make_backend`."""
    not_finite: NotFinite = "refuse"
    """What becomes of NaN and infinity in an input."""
    max_delay_ms: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Longest time for which requests wait for company at a stage; see `runtime.Runner`."""
    max_waiting: Annotated[int, msgspec.Meta(ge=1)] = 256
    """Most samples under way in requests; more are refused."""
    endpoint: EndpointConfig = EndpointConfig()

    def __post_init__(self) -> None:
        """Refuse what a type cannot express (FieldError)."""
        for what in ("report_interval_s", "resend_s", "feedback_window_s", "max_delay_ms"):
            if not isfinite(getattr(self, what)):
                raise FieldError("must be finite", what)
        if self.signed_bundle and not self.trusted_keys:
            raise FieldError("needs trusted_keys", "signed_bundle")
        for what in ("fleet", "shard", "device", "cohort"):
            try:
                check_name(what, getattr(self, what))
            except MessageError as error:  # noqa: PERF203 - four names
                raise FieldError(f"is not valid: {error}", what) from error
        try:
            self.broker.endpoint()
        except ConfigError as error:
            raise FieldError(f"is not valid: {error}", "broker", "url") from error

    @classmethod
    def load(cls, path: Path, *, broker: str | None = None, device: str | None = None) -> "AgentConfig":
        """Read a configuration file; its relative paths start at its own folder.

        Args:
            path: the TOML file.
            broker: replaces the file's `broker.url`.
            device: replaces the file's `device`.

        Raises ConfigError that names the file, the line and the field, or `--broker` or `--device`.

        """
        overrides: dict[str, dict[str, str] | str] = {}
        try:
            if device is not None:
                overrides["device"] = check_name("--device", device)
            if broker is not None:
                BrokerConfig(url=broker).endpoint()
                overrides["broker"] = {"url": broker}
        except MessageError as error:
            raise ConfigError(str(error)) from error
        except (ConfigError, ValueError) as error:
            raise ConfigError(f"--broker: {error}") from error
        try:
            config = decode_toml(path.read_bytes(), cls, dec_hook=_path, overrides=overrides)
        except OSError as error:
            raise ConfigError(f"config file '{path}' cannot be read: {error.strerror}") from error
        except TomlError as error:
            place = "" if error.line is None else f", line {error.line}"
            raise ConfigError(f"config file '{path}'{place}: {error}") from error
        return _relative_to(path.parent, config)

    @property
    def address(self) -> DeviceAddress:
        """Where this device stands in the topic tree."""
        return DeviceAddress(self.fleet, self.shard, self.device)

    def broker_file_troubles(self) -> Iterator[str]:
        """Yield what is wrong with the files that the way to the broker needs, a line each."""
        needed = _TLS_FILES if self.broker.endpoint()[2] else ()
        for name in (*needed, *(("password_file",) if self.broker.username is not None else ())):
            file = getattr(self.broker, name)
            try:
                if file is not None:
                    Path(file).open("rb").close()
            except OSError as error:
                yield f"broker.{name} '{file}' cannot be read ({error.strerror}); the broker is out of reach without it"

    def load_keys(self) -> tuple[PublicKey, ...]:
        """Read the trusted keys. Raises ConfigError that names the file."""
        try:
            return tuple(load_public_key(path) for path in self.trusted_keys)
        except SignatureError as error:
            raise ConfigError(f"trusted_keys: {error}") from error


def _relative_to(folder: Path, config: AgentConfig) -> AgentConfig:
    """Return the configuration with its relative paths started at `folder`."""
    files = {name: getattr(config.broker, name) for name in _BROKER_FILES}
    found = {name: str(folder / file) for name, file in files.items() if file is not None}
    return msgspec.structs.replace(
        config,
        state_dir=folder / config.state_dir,
        trusted_keys=tuple(folder / key for key in config.trusted_keys),
        broker=msgspec.structs.replace(config.broker, **found),
    )


def _path(kind: type, value: object) -> Path:
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    raise ValueError(f"expected a path, got {value!r}")
