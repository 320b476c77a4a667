"""Read and check the agent's configuration and the files that it names, before they are sent to a device."""

from pathlib import Path, PurePosixPath
from typing import Any, Final

import msgspec

from edgeexit.agent.config import BROKER_FILES, KEY_FIELDS, AgentConfig, EndpointConfig
from edgeexit.deploy.payload import PayloadFile, local_file
from edgeexit.deploy.remote.documents import ConfigurationDocument
from edgeexit.errors import ConfigError, SignatureError
from edgeexit.signing import decode_public_key

CONFIG_NAME: Final = "agent.toml"
_PRIVATE: Final = 0o600
_BUNDLE_KEY_FIELDS: Final = ("trusted_keys", "bundle_keys")
"""Fields with keys that may sign a bundle."""
_RESERVED: Final = {"bundle", "venv", "state", "release.json", "healthy", "edgeexit.service", CONFIG_NAME}
_LOOPBACK: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - an address to connect to
"""Address that the agent listens on -> address that a process on the device connects to."""


class ReleaseConfiguration(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration of a release; a later deployment without `--config` reuses it."""

    files: tuple[PayloadFile, ...]
    """`agent.toml` and the files that it names by relative paths, all with mode 0600."""
    endpoint: tuple[str, int]
    """Host and port of the agent's endpoint, as a process on the device reaches it."""
    writable_folders: tuple[str, ...]
    """Absolute folders on the device, besides `state`, that the agent writes to."""
    signed_bundle: bool
    """The agent accepts only a signed bundle."""
    bundle_keys: tuple[str, ...]
    """Paths of the keys that may sign it, as in the configuration: one of `files`, or absolute on the device."""
    warnings: tuple[str, ...] = ()

    def to_document(self) -> ConfigurationDocument:
        """Return what `release.json` stores."""
        host, port = self.endpoint
        return {
            "files": [
                {"name": file.name, "sha256": file.sha256, "size": file.size, "mode": file.mode} for file in self.files
            ],
            "endpoint": {"host": host, "port": port},
            "writable_folders": list(self.writable_folders),
            "signed_bundle": self.signed_bundle,
            "bundle_keys": list(self.bundle_keys),
        }

    @classmethod
    def from_document(cls, document: ConfigurationDocument) -> "ReleaseConfiguration":
        """Return the configuration in a `release.json`; its files exist only on the device."""
        return cls(
            files=tuple(PayloadFile(**file) for file in document["files"]),
            endpoint=(document["endpoint"]["host"], document["endpoint"]["port"]),
            writable_folders=tuple(document["writable_folders"]),
            signed_bundle=document["signed_bundle"],
            bundle_keys=tuple(document["bundle_keys"]),
        )


def read_configuration(path: Path) -> ReleaseConfiguration:
    """Check a configuration file and collect the files that it names.

    A file with a relative path is copied to the same path on the device. An absolute path is a path on the device, so
    nothing is copied. Raises ConfigError if the configuration is not valid, if its endpoint is disabled, if
    `state_dir` is inside the release, or if a file with a relative path is missing or is outside the folder of the
    configuration. Raises DeployError if a file to copy is a link or not a regular file.
    """
    config = AgentConfig.load(path)
    agent_file = local_file(CONFIG_NAME, path.parent, path.name, mode=_PRIVATE)
    content: dict[str, Any] = msgspec.toml.decode(_content(agent_file))
    files = {CONFIG_NAME: agent_file}
    for key, name in _named_files(content):
        relative = PurePosixPath(name)
        if relative.is_absolute():
            continue
        if ".." in relative.parts or not relative.parts or relative.parts[0] in _RESERVED:
            raise ConfigError(
                f"config file '{path}': {key} = '{name}' must be a file beside the config file or in a folder there; "
                f"the names {', '.join(sorted(_RESERVED))} are reserved"
            )
        if not (path.parent / name).exists():
            raise ConfigError(f"config file '{path}': {key} = '{name}' does not exist")
        if str(relative) not in files:
            files[str(relative)] = local_file(str(relative), path.parent, str(relative), mode=_PRIVATE)
    for field in KEY_FIELDS:
        for key in _paths(content, field):
            if (file := files.get(str(PurePosixPath(key)))) is not None:
                _check_key(path, field, key, file)
    return ReleaseConfiguration(
        files=tuple(files.values()),
        endpoint=_endpoint(path, config.endpoint),
        writable_folders=_state_folders(path, content),
        signed_bundle=config.signed_bundle,
        bundle_keys=tuple(_paths(content, *_BUNDLE_KEY_FIELDS)),
        warnings=tuple(filter(None, [config.broker.password_warning()])),
    )


def _named_files(content: dict[str, Any]) -> list[tuple[str, str]]:
    named = [(field, key) for field in KEY_FIELDS for key in _paths(content, field)]
    broker = content.get("broker", {})
    return named + [(f"broker.{name}", str(broker[name])) for name in BROKER_FILES if name in broker]


def _paths(content: dict[str, Any], *fields: str) -> list[str]:
    return [str(path) for field in fields for path in content.get(field, ())]


def _check_key(path: Path, field: str, key: str, file: PayloadFile) -> None:
    try:
        decode_public_key(_content(file), name=key)
    except SignatureError as error:
        raise ConfigError(f"config file '{path}': {field}: {error}") from error


def _content(file: PayloadFile) -> bytes:
    return b"" if file.source is None else b"".join(file.source.chunks())


def _state_folders(path: Path, content: dict[str, Any]) -> tuple[str, ...]:
    state = PurePosixPath(str(content.get("state_dir", "state")))
    if state.is_absolute():
        return (str(state),)
    if state.parts[:1] != ("state",) or ".." in state.parts:
        raise ConfigError(
            f"config file '{path}': state_dir = '{state}' would be deleted with the release; omit state_dir (all "
            "releases then use one state folder), or give an absolute path on the device"
        )
    return ()


def _endpoint(path: Path, config: EndpointConfig) -> tuple[str, int]:
    """Return host and port of the endpoint, as a process on the device reaches it."""
    if config.enabled is False or config.port == 0 or not config.tcp:
        raise ConfigError(
            f"config file '{path}': endpoint.enabled = {str(config.enabled).lower()}, port = {config.port}, tcp = "
            f"{str(config.tcp).lower()}; a deployment checks the agent's health at its endpoint, so enable it and give "
            "it a port"
        )
    return _LOOPBACK.get(config.host, config.host), config.port
