"""The agent's configuration as it goes to a device: checked here, with the files that it names beside it."""

from pathlib import Path, PurePosixPath
from typing import Any, Final

import msgspec

from edgeexit.agent.config import AgentConfig, EndpointConfig
from edgeexit.deploy.payload import PayloadFile, local_file
from edgeexit.errors import ConfigError

CONFIG_NAME: Final = "agent.toml"
_PRIVATE: Final = 0o600
_BROKER_FILES: Final = ("ca_file", "certificate_file", "key_file", "password_file")
_TAKEN: Final = {"bundle", "venv", "state", "release.json", "healthy", "edgeexit.service", CONFIG_NAME}
_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - to ask, not to bind


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """What a release keeps of its configuration, so that the next deployment can do without the file."""

    files: tuple[PayloadFile, ...]
    """`agent.toml` and what it names by relative paths, all private."""
    endpoint: tuple[str, int]
    """Where the agent is asked on the device itself: host and port."""
    writable: tuple[str, ...]
    """Absolute folders, beside `state`, that the agent writes to."""
    signed_bundle: bool


def read_configuration(path: Path) -> Configuration:
    """Check a configuration file and gather what it names.

    A relative path stays where it is beside the file; an absolute one is the device's own and nothing is copied.
    Raises ConfigError for what the agent would refuse, a file that is missing, and one outside the file's folder.
    """
    config = AgentConfig.load(path)
    content: dict[str, Any] = msgspec.toml.decode(path.read_bytes())
    files = [local_file(CONFIG_NAME, path, mode=_PRIVATE)]
    for key, name in _named_files(content):
        place = PurePosixPath(name)
        if place.is_absolute():
            continue
        if ".." in place.parts or not place.parts or place.parts[0] in _TAKEN:
            raise ConfigError(f"config file '{path}': {key} = '{name}' must lie beside it, under a name of its own")
        source = path.parent / name
        if not source.is_file():
            raise ConfigError(f"config file '{path}': {key} = '{name}' is not there")
        if str(place) not in {file.name for file in files}:
            files.append(local_file(str(place), source, mode=_PRIVATE))
    if not any(PurePosixPath(name).is_absolute() for name in map(str, content.get("trusted_keys", ()))):
        config.load_keys()
    return Configuration(
        files=tuple(files),
        endpoint=_endpoint(path, config.endpoint),
        writable=_state_folders(path, content),
        signed_bundle=config.signed_bundle,
    )


def _named_files(content: dict[str, Any]) -> list[tuple[str, str]]:
    named = [("trusted_keys", str(key)) for key in content.get("trusted_keys", ())]
    broker = content.get("broker", {})
    return named + [(f"broker.{name}", str(broker[name])) for name in _BROKER_FILES if name in broker]


def _state_folders(path: Path, content: dict[str, Any]) -> tuple[str, ...]:
    place = PurePosixPath(str(content.get("state_dir", "state")))
    if place.is_absolute():
        return (str(place),)
    if place.parts[:1] != ("state",) or ".." in place.parts:
        raise ConfigError(
            f"config file '{path}': state_dir = '{place}' would be lost with the release; leave it out (it is "
            "then kept over all releases), or give an absolute path of the device"
        )
    return ()


def _endpoint(path: Path, config: EndpointConfig) -> tuple[str, int]:
    """Return where the agent is asked on the device itself."""
    if config.enabled is False or config.port == 0:
        raise ConfigError(
            f"config file '{path}': endpoint.enabled = {str(config.enabled).lower()}, port = {config.port}; a deployed "
            "agent is asked for its health at its endpoint, so leave it on and give it a port"
        )
    return _EVERYWHERE.get(config.host, config.host), config.port
