"""The agent's configuration: one TOML file, validated before the agent starts."""

import platform
import re
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import Annotated, Final

import msgspec

from edgeexit.errors import ConfigError, MessageError, SignatureError
from edgeexit.key_set import MAX_KEYS, TrustedKeys
from edgeexit.policies.document import MAX_AUDIT_FRACTION, Fraction
from edgeexit.policies.document import Name as AnyName
from edgeexit.runtime import NotFinite
from edgeexit.signing import PublicKey, load_public_key
from edgeexit.toml_document import FieldError, TomlError, decode_toml
from edgeexit.wire import BrokerConfig, DeviceAddress, check_name

KEY_FIELDS: Final = ("trusted_keys", "policy_keys", "bundle_keys", "command_keys")
"""Fields of the configuration that list files of public keys."""
BROKER_FILES: Final = tuple(field for field in BrokerConfig.__struct_fields__ if field.endswith("_file"))
"""Fields of the table `[broker]` that name a file."""
_TIMES: Final = (
    "report_interval_s", "confirm_within_s", "policy_trial_s", "resend_s", "feedback_window_s", "max_delay_ms",
)  # fmt: skip

Name = Annotated[AnyName, msgspec.Meta(description="1 to 64 characters of A-Z a-z 0-9 _ -")]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


def host_device() -> str:
    """Return this machine's host name; hyphens replace the characters that a device name cannot contain."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", platform.node()).strip("-")[:64]
    return name or "device"


class EndpointConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the local endpoint listens, and its limits on clients: the `[endpoint]` table."""

    enabled: bool | None = None
    """Default: True when the agent runs as a service, False when it replays a stream."""
    host: Annotated[str, msgspec.Meta(min_length=1)] = "127.0.0.1"
    """Address to listen on. There is no authentication: any other address opens the endpoint to the network."""
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8080
    """0: a free port, which is logged."""
    tcp: bool = True
    """False: listen on `socket` only."""
    socket: Path | None = None
    """Path of a Unix domain socket to listen on, with mode 0660."""
    hosts: tuple[Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._-]+$")], ...] = ()
    """Names that a request may have in its Host header, besides localhost, addresses and this machine's name."""
    inline_ms: Annotated[float, msgspec.Meta(ge=0)] = 2.0
    """Inferences expected to take at most this long run in the endpoint's own thread; 0: none does."""
    max_body_bytes: Annotated[int, msgspec.Meta(ge=1024)] = 16 * 1024 * 1024
    """Maximum body of one request. All requests in flight together may hold four times as much."""
    max_requests: Annotated[int, msgspec.Meta(ge=1)] = 128
    """Maximum requests in flight, from the last byte of the body to that of the response; more get a 503."""
    max_connections: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 256
    """Maximum open connections; for a new one the oldest idle one is closed. If none is idle, it gets a 503.

    The soft limit on open files of the process is raised as far as needed; a hard limit that is lower reduces this.
    """
    idle_timeout_s: Seconds = 60.0
    """A connection on which no request starts within this time is closed."""
    header_timeout_s: Seconds = 10.0
    """A connection is closed if the headers of a request are not complete within this time."""
    transfer_timeout_s: Seconds = 30.0
    """A connection is closed if a body is not received, or a response not sent, within this time."""

    def __post_init__(self) -> None:
        """Raise FieldError if a time is not finite, or there is nothing to listen on."""
        for field in ("inline_ms", "idle_timeout_s", "header_timeout_s", "transfer_timeout_s"):
            if not isfinite(getattr(self, field)):
                raise FieldError("must be finite", field)
        if not self.tcp and self.socket is None:
            raise FieldError("leaves nothing to listen on; set socket, too", "tcp")


class AgentConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who a device is, whom it trusts, and how it communicates with its fleet."""

    fleet: Name
    shard: Name = "s0"
    """Devices of a fleet can be distributed over calibrator processes by shard; any name is valid."""
    device: Name = msgspec.field(default_factory=host_device)
    """Default: the machine's host name."""
    cohort: Name = "default"
    """Devices of a cohort run the same bundle and get the same policy."""
    state_dir: Path = Path("state")
    """Folder for the accepted policies and the outbox; it is created if it does not exist."""
    trusted_keys: tuple[Path, ...] = ()
    """Public keys (.pub) that may sign everything: policies, heartbeats, bundles, commands, and key sets."""
    policy_keys: tuple[Path, ...] = ()
    """Public keys that may sign policies and heartbeats only. Without these and `trusted_keys`, every received policy
    is rejected."""
    policy_threshold: Annotated[int, msgspec.Meta(ge=1, le=MAX_KEYS)] = 1
    """Number of different keys that must have signed a policy, a heartbeat or a key set."""
    bundle_keys: tuple[Path, ...] = ()
    """Public keys that may sign bundles only."""
    command_keys: tuple[Path, ...] = ()
    """Public keys that may sign commands only."""
    signed_bundle: bool = False
    """True: one of `trusted_keys` and `bundle_keys` must have signed the bundle."""
    broker: BrokerConfig = BrokerConfig()
    audit_fraction: Fraction = 0.01
    """Fraction of samples that are run to full depth after their prediction was returned; 0: none, also if a policy
    document asks for audits."""
    max_audit_fraction: Fraction = MAX_AUDIT_FRACTION
    """Highest fraction that a policy document can ask for. `audit_fraction` may be higher."""
    report_interval_s: Seconds = 60.0
    """Seconds between reports."""
    confirm_within_s: Seconds = 3600.0
    """Seconds without a newer heartbeat, or without the policy that it names, until the device is `unconfirmed`."""
    policy_trial_s: Annotated[float, msgspec.Meta(ge=0)] = 60.0
    """An agent that crashes within this time after it applied a policy returns to the last good one; 0: it does not."""
    resend_s: Seconds = 30.0
    """Seconds after which an unacknowledged message is sent again."""
    outbox_max_bytes: Annotated[int, msgspec.Meta(ge=64 * 1024)] = 16 * 1024 * 1024
    """Maximum size of the unacknowledged messages; above it the oldest audits are dropped first."""
    feedback_window_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Seconds for which the audits of an inference with an id wait for labels; 0: until the next report."""
    fallback: bool = False
    """True: if the target's runtime or execution provider is not available, use another; see docs/backends.md."""
    not_finite: NotFinite = "refuse"
    """refuse: raise an error if an input contains NaN or infinity; pass: run it."""
    max_delay_ms: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Maximum time for which samples wait at a stage to be batched with others; see `runtime.Runner`."""
    max_waiting: Annotated[int, msgspec.Meta(ge=1)] = 256
    """Maximum samples pending in requests; more are refused."""
    endpoint: EndpointConfig = EndpointConfig()

    def __post_init__(self) -> None:
        """Raise FieldError if a value is not valid for a reason that its type does not express."""
        for field in _TIMES:
            if not isfinite(getattr(self, field)):
                raise FieldError("must be finite", field)
        if self.policy_threshold > max(1, policy_keys := len(self.trusted_keys) + len(self.policy_keys)):
            raise FieldError(f"is more than the {policy_keys} keys in trusted_keys and policy_keys", "policy_threshold")
        if self.signed_bundle and not (self.trusted_keys or self.bundle_keys):
            raise FieldError("needs trusted_keys or bundle_keys", "signed_bundle")
        if self.bundle_keys and not self.signed_bundle:
            raise FieldError("needs signed_bundle = true; otherwise no bundle is checked", "bundle_keys")
        for field in ("fleet", "shard", "device", "cohort"):
            try:
                check_name(field, getattr(self, field))
            except MessageError as error:  # noqa: PERF203 - only four names
                raise FieldError(f"is not valid: {error}", field) from error
        try:
            self.broker.endpoint()
        except ConfigError as error:
            raise FieldError(f"is not valid: {error}", "broker", "url") from error

    @classmethod
    def load(cls, path: Path, *, broker: str | None = None, device: str | None = None) -> "AgentConfig":
        """Read a configuration file; relative paths in it are relative to its folder.

        Args:
            path: the TOML file.
            broker: replaces `broker.url` of the file.
            device: replaces `device` of the file.

        Raises ConfigError that names the file, the line and the field, or the option `--broker` or `--device`.

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
        """The topic levels that identify this device."""
        return DeviceAddress(self.fleet, self.shard, self.device)

    def broker_warnings(self) -> Iterator[str]:
        """Yield a warning for a password sent without encryption, and for each file needed that is not readable."""
        if (warning := self.broker.password_warning()) is not None:
            yield warning
        for name in BROKER_FILES:
            file = getattr(self.broker, name)
            try:
                if file is not None:
                    Path(file).open("rb").close()
            except OSError as error:
                yield f"broker.{name} '{file}' cannot be read ({error.strerror}); the agent cannot connect without it"

    def load_keys(self) -> TrustedKeys:
        """Read the public keys. Raises ConfigError that names the file that is not readable."""
        return TrustedKeys.configured(
            self.fleet,
            trusted=self._load_keys("trusted_keys"),
            policy=self._load_keys("policy_keys"),
            bundle=self._load_keys("bundle_keys"),
            command=self._load_keys("command_keys"),
            policy_threshold=self.policy_threshold,
        )

    def _load_keys(self, field: str) -> list[PublicKey]:
        try:
            return [load_public_key(path) for path in getattr(self, field)]
        except SignatureError as error:
            raise ConfigError(f"{field}: {error}") from error


def _relative_to(folder: Path, config: AgentConfig) -> AgentConfig:
    """Return the configuration with its relative paths resolved against `folder`."""
    files = {name: getattr(config.broker, name) for name in BROKER_FILES}
    resolved = {name: str(folder / file) for name, file in files.items() if file is not None}
    return msgspec.structs.replace(
        config,
        state_dir=folder / config.state_dir,
        **{field: tuple(folder / key for key in getattr(config, field)) for field in KEY_FIELDS},
        endpoint=config.endpoint
        if config.endpoint.socket is None
        else msgspec.structs.replace(config.endpoint, socket=folder / config.endpoint.socket),
        broker=msgspec.structs.replace(config.broker, **resolved),
    )


def _path(kind: type, value: object) -> Path:
    if kind is Path and isinstance(value, str) and value and "\0" not in value:
        return Path(value)
    raise ValueError(f"expected a path, got {value!r}")
