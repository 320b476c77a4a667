"""The documents that the two sides of a deployment exchange: arguments and replies of the steps, and `release.json`.

The client checks replies against these types. The steps on the device use plain dictionaries, because no package is
installed for them.
"""

from typing import Literal, TypedDict


class EmptyDocument(TypedDict):
    """The arguments or the reply of a step that needs none."""


class EndpointDocument(TypedDict):
    """The address of the agent's endpoint on the device itself."""

    host: str
    port: int


class ConfigurationFileDocument(TypedDict):
    """`agent.toml`, or a file that it names by a relative path."""

    name: str
    sha256: str
    size: int
    mode: int


class ConfigurationDocument(TypedDict):
    """The configuration of a release; the next deployment may use it again."""

    files: list[ConfigurationFileDocument]
    endpoint: EndpointDocument
    writable_folders: list[str]
    """Absolute folders on the device, besides `state`, that the agent writes to."""
    signed_bundle: bool
    bundle_keys: list[str]
    """Keys that may sign the bundle: names in `files`, or absolute paths on the device."""


class NewReleaseDocument(TypedDict):
    """A release as the client describes it."""

    bundle: str
    """Digest of the bundle."""
    model: str
    target: str
    content_key: str
    """Hash of the release's content: files, environment and service manager."""
    environment: str
    """Key of the Python environment under `venvs/`."""
    edgeexit_version: str
    wheel_sha256: str
    python: str
    service: Literal["systemd", "user", "process"]
    unit_name: str
    """Name of the systemd unit, without `.service`."""
    start_timeout_s: float
    """How long the agent may take to become healthy, unless the user sets another timeout."""
    configuration: ConfigurationDocument
    deployed_by: str
    deployed_at: str


class ReleaseDocument(NewReleaseDocument):
    """`release.json` in the folder of a release."""

    id: str
    replaces: str | None
    """The release that a rollback returns to; null for the first release."""


class FileEntry(TypedDict):
    """A file that a release or an environment needs."""

    path: str
    """Where the file goes, relative to the folder of the deployment."""
    name: str
    """Its path in the release, for example `bundle/stage0.onnx`; empty for a wheel."""
    sha256: str
    size: int
    mode: int


class FileState(TypedDict):
    """How much of a file the device has."""

    state: Literal["present", "in_release", "missing"]
    """`present`: complete. `in_release`: an installed release has the same file. `missing`: has to be sent."""
    release: str | None
    """`in_release`: the release that has the file."""
    offset: int
    """`missing`: number of bytes that have arrived already."""


class ReceivedFile(FileEntry):
    """A file of the step `receive`: linked from a release, or read from standard input from `offset` on."""

    release: str | None
    offset: int


class LockArguments(TypedDict):
    """Arguments of the step `lock`."""

    owner: str
    """`user@host` of the client."""


class LockReply(TypedDict):
    """Reply of the step `lock`."""

    acquired: bool
    owner: str
    """`user@host` of the client that holds the lock."""
    age_s: float
    """How long that client has held it."""


class KeysArguments(TypedDict):
    """Arguments of the step `keys`."""

    paths: list[str]
    """Absolute, or relative to the current release."""


class KeyDocument(TypedDict):
    """A public key on the device."""

    path: str
    lines: list[str]
    """The lines of the PEM file."""
    error: str | None
    """Why it cannot be read."""


class KeysReply(TypedDict):
    """Reply of the step `keys`."""

    keys: list[KeyDocument]


class InventoryArguments(TypedDict):
    """Arguments of the step `inventory`."""

    files: list[FileEntry]
    folders: list[str]
    """Absolute paths, existing or not, whose free space is reported."""


class FolderSpace(TypedDict):
    """The file system of a folder, or of its nearest parent that exists."""

    file_system: int
    """Number of the device that holds it."""
    free_bytes: int
    """Free space for a user who is not root."""


class InventoryReply(TypedDict):
    """Reply of the step `inventory`."""

    current: ReleaseDocument | None
    current_healthy: bool
    environments: list[str]
    """Keys of the complete environments."""
    files: dict[str, FileState]
    """`FileEntry.path` -> state."""
    spaces: dict[str, FolderSpace]
    """Path of a folder -> its file system."""


class ReceiveArguments(TypedDict):
    """Arguments of the step `receive`."""

    files: list[ReceivedFile]


class ReceiveReply(TypedDict):
    """Reply of the step `receive`."""

    damaged: list[str]
    """Paths of the files whose SHA-256 is wrong; they were removed."""


class EnvironmentArguments(TypedDict):
    """Arguments of the step `environment`."""

    key: str
    requirements: list[str]
    """Lines of a requirements file for pip; `{wheels}` stands for the URL of the folder with the wheels."""
    hashed: bool
    """Every requirement has a version and a hash."""
    offline: bool
    """Install from `wheels` only."""
    wheels: dict[str, str]
    """File name in `wheels/` -> its SHA-256."""
    system_packages: bool
    """The environment can import the packages of the system's Python."""
    probes: list[str]
    """Python statements that must succeed in the new environment."""


class EnvironmentReply(TypedDict):
    """Reply of the step `environment`."""

    created: bool
    """False if the environment existed already."""


class FinishArguments(TypedDict):
    """Arguments of the step `finish`."""

    release: NewReleaseDocument


class FinishReply(TypedDict):
    """Reply of the step `finish`."""

    id: str


class EnginesArguments(TypedDict):
    """Arguments of the step `engines`."""

    release: str


class ActivateArguments(TypedDict):
    """Arguments of the step `activate`."""

    ticket: str
    """Random id of this activation; the step `watch` receives the same id."""
    release: str
    timeout_s: float
    wheels: list[str] | None
    """File names in `wheels/` to keep; null keeps all."""


ActivationOutcome = Literal["healthy", "rolled back", "stopped", "failed"]
"""`rolled back`: an earlier release is current. `stopped`: there is no earlier release, so no agent runs.

`failed`: an unexpected error ended the activation."""


class ActivationResult(TypedDict):
    """How an activation ended."""

    outcome: ActivationOutcome
    reason: str | None
    """Why the release is not healthy."""
    replaces: str | None
    """`healthy`: the release that a rollback returns to."""
    warning: str | None
    rolled_back_to: str | None
    rollback_error: str | None
    """Why the release that the device rolled back to is not healthy either."""
    log: list[str]
    """Last lines of the log of the agent that failed."""


ActivationStep = Literal["waiting", "switching", "starting", "rolling back", "done"]


class ActivationDocument(TypedDict):
    """`activation.json`: the progress of the last activation."""

    ticket: str
    step: ActivationStep
    result: ActivationResult | None
    """Null until the step is `done`."""


class WatchArguments(TypedDict):
    """Arguments of the step `watch`."""

    ticket: str


class WatchReply(TypedDict):
    """Reply of the step `watch`."""

    activation: ActivationDocument | None
    """Null if the last activation has another ticket."""
    working: bool
    """A step is still running on the device."""


class StatusArguments(TypedDict):
    """Arguments of the step `status`."""

    log_lines: int


class InstalledRelease(TypedDict):
    """A release that is installed on the device."""

    release: ReleaseDocument
    healthy: bool
    """The release has been healthy at least once on this device."""
    has_policy: bool
    """Its bundle contains a policy."""


class StatusReply(TypedDict):
    """Reply of the step `status`."""

    current: str | None
    releases: list[InstalledRelease]
    pid: int | None
    health_error: str | None
    """Why the agent of the current release does not serve; null if it serves or nothing is deployed."""
    log: list[str]
