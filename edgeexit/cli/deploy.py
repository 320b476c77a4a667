"""`edgeexit deploy`: deploy a bundle to a device over SSH, roll back, show the status, print the systemd unit."""

import shlex
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperGroup

from edgeexit.cli.deploy_progress import MIB, show_deploy_progress
from edgeexit.console import console, next_step, notes, print_json, print_table, printable

if TYPE_CHECKING:
    from edgeexit.deploy import Address, DeploymentResult, DeviceStatus
    from edgeexit.deploy.status import ReleaseStatus

_PUSH: Final = "push"
_FOLDER: Final = "~/edgeexit"


class _PushByDefault(TyperGroup):
    """A group with the default command `push`: `deploy BUNDLE HOST` means `deploy push BUNDLE HOST`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in {"--help", "-h"}:
            args = [_PUSH, *args]
        return super().parse_args(ctx, args)


deploy_app = typer.Typer(
    name="deploy",
    cls=_PushByDefault,
    help=(
        "Deploy a bundle to a device over SSH and start its agent. "
        "If the agent is not healthy, the device rolls back.\n\n"
        "Examples: `edgeexit deploy mybundle pi@camera-17 --config agent.toml`, "
        "`edgeexit deploy rollback pi@camera-17`, `edgeexit deploy status pi@camera-17`"
    ),
    no_args_is_help=True,
)

HostArgument = Annotated[
    str, typer.Argument(metavar="USER@HOST", help="Address of the device, or a host name in ~/.ssh/config.")
]
PortOption = Annotated[int | None, typer.Option(min=1, max=65535, help="Port of the device's SSH server.")]
IdentityOption = Annotated[Path | None, typer.Option(help="Private key for the SSH login.")]
SshOption = Annotated[
    list[str] | None, typer.Option("--ssh-option", "-o", help="Option NAME=VALUE for ssh; may be repeated.")
]
FolderOption = Annotated[str, typer.Option("--path", help="Folder of the deployment on the device.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


class ServiceKind(str, Enum):
    """The service manager that starts and restarts the agent."""

    AUTO = "auto"
    SYSTEMD = "systemd"
    USER = "user"
    PROCESS = "process"


class ManagerKind(str, Enum):
    """The systemd instance that a unit is written for."""

    SYSTEM = "system"
    USER = "user"


class DevicesKind(str, Enum):
    """The device files that an agent may open."""

    NONE = "none"
    RASPBERRY_PI = "raspberry-pi"
    GPU = "gpu"


@deploy_app.command(_PUSH)
def push_command(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    host: HostArgument,
    config: Annotated[
        Path | None,
        typer.Option(help="Configuration of the agent; default: that of the device's current release."),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Target that describes the device; default: the bundle's target.")
    ] = None,
    port: PortOption = None,
    identity: IdentityOption = None,
    ssh_option: SshOption = None,
    path: FolderOption = _FOLDER,
    wheel: Annotated[
        Path | None, typer.Option(help="Wheel of edgeexit to install; default: built from the edgeexit that runs now.")
    ] = None,
    wheelhouse: Annotated[
        Path | None, typer.Option(help="Folder with all other wheels, for a device without access to a package index.")
    ] = None,
    lock: Annotated[
        Path | None,
        typer.Option(help="Requirements for pip with versions and hashes; default: the lock file of this edgeexit."),
    ] = None,
    allow_unhashed: Annotated[
        bool,
        typer.Option("--allow-unhashed", help="Install what the device's package index offers, without hashes."),
    ] = False,
    service: Annotated[
        ServiceKind,
        typer.Option(
            help="Service manager for the agent; auto: systemd, user or process, the first that is available."
        ),
    ] = ServiceKind.AUTO,
    timeout: Annotated[
        float | None,
        typer.Option(min=1, help="Seconds until the agent must be healthy; default: 60, with TensorRT 180."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print what would be done, and change nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Copy a bundle to a device, switch to it and wait until its agent is healthy; roll back if it is not.

    Example: `edgeexit deploy mybundle pi@camera-17 --config agent.toml --wheelhouse wheels`
    """
    from edgeexit.deploy import DeployOptions, deploy

    options = DeployOptions(
        bundle=bundle,
        address=_address(host, port, identity, ssh_option),
        config=config,
        target=target,
        folder=path,
        wheel=wheel,
        wheelhouse=wheelhouse,
        lock=lock,
        allow_unhashed=allow_unhashed,
        service=service.value,
        timeout_s=timeout,
        dry_run=dry_run,
    )
    with show_deploy_progress() as progress:
        result = deploy(options, progress=progress)
    if as_json:
        print_json(result)
        return
    _print_result(result, host)
    if result.outcome == "planned":
        next_step("the same command without --dry-run")
    else:
        next_step(f"edgeexit deploy status {shlex.quote(host)}" + _connection_options(port, identity, ssh_option, path))


@deploy_app.command("rollback")
def rollback_command(
    host: HostArgument,
    to: Annotated[
        str | None, typer.Option(help="Release id; default: the release that the current one replaced.")
    ] = None,
    port: PortOption = None,
    identity: IdentityOption = None,
    ssh_option: SshOption = None,
    path: FolderOption = _FOLDER,
    timeout: Annotated[
        float | None,
        typer.Option(min=1, help="Seconds until the agent must be healthy; default: 60, with TensorRT 180."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Switch a device back to its previous release; a second rollback returns to the newer one.

    Example: `edgeexit deploy rollback pi@camera-17`
    """
    from edgeexit.deploy import roll_back

    address = _address(host, port, identity, ssh_option)
    with show_deploy_progress() as progress:
        result = roll_back(address, to=to, folder=path, timeout_s=timeout, progress=progress)
    if as_json:
        print_json(result)
        return
    console.print(f"{printable(host)} serves release {result.release}{_kept(result.replaces)}")
    next_step(f"edgeexit deploy status {shlex.quote(host)}" + _connection_options(port, identity, ssh_option, path))


@deploy_app.command("status")
def status_command(
    host: HostArgument,
    port: PortOption = None,
    identity: IdentityOption = None,
    ssh_option: SshOption = None,
    path: FolderOption = _FOLDER,
    as_json: JsonOption = False,
) -> None:
    """Show the releases of a device and whether its agent serves; nothing is changed on the device.

    Example: `edgeexit deploy status pi@camera-17`
    """
    from edgeexit.deploy import device_status

    status = device_status(_address(host, port, identity, ssh_option), folder=path)
    if as_json:
        print_json(status)
        return
    connection_options = _connection_options(port, identity, ssh_option, path)
    if status.current is None:
        console.print(f"nothing is deployed in {printable(status.folder)} on {printable(host)}", soft_wrap=True)
        next_step(f"edgeexit deploy BUNDLE {shlex.quote(host)} --config agent.toml" + connection_options)
        return
    state = (
        f"serves (process {status.pid}, {status.service})"
        if status.serving
        else f"does not serve: {status.health_error}"
    )
    print_table(
        printable(f"{host}: {state}"),
        ("release", "model", "bundle", "policy", "edgeexit", "deployed", "by", ""),
        [
            (
                release.id,
                release.model,
                release.bundle[:12],
                "yes" if release.has_policy else "none",
                release.edgeexit_version,
                release.deployed_at,
                release.deployed_by,
                _release_state(release),
            )
            for release in status.releases
        ],
    )
    if not status.serving:
        for line in status.log:
            notes.print(f"  {printable(line)}", soft_wrap=True)
    next_step(f"edgeexit deploy {_next_command(status)}{shlex.quote(host)}" + connection_options)


@deploy_app.command("unit")
def unit_command(
    path: Annotated[str, typer.Option("--path", help="Absolute path of the deployment's folder on the device.")],
    user: Annotated[str, typer.Option(help="User that the agent runs as.")] = "",
    manager: Annotated[
        ManagerKind, typer.Option(help="Write the unit for the systemd of the system or for that of a user.")
    ] = ManagerKind.SYSTEM,
    devices: Annotated[DevicesKind, typer.Option(help="Device files that the agent may open.")] = DevicesKind.NONE,
) -> None:
    """Print the systemd unit for an agent that you install yourself.

    Example: `edgeexit deploy unit --path /opt/edgeexit --user edge > edgeexit.service`
    """
    from edgeexit.deploy.unit import render_unit

    typer.echo(render_unit(path, manager=manager.value, user=user, devices=devices.value), nl=False)


def _print_result(result: "DeploymentResult", host: str) -> None:
    size = f"{result.sent_bytes / MIB:.1f} MiB"
    if result.outcome == "planned":
        environment = "create an environment" if result.environment == "created" else "reuse the environment"
        text = (
            f"would send {size}, {environment} with {printable(result.python)}, "
            f"replace {result.replaces or 'nothing'}; service: {result.service}; "
            f"needs {result.needed_bytes / MIB:.0f} MiB of {result.free_bytes / MIB:.0f} MiB free in "
            f"{printable(result.folder)}"
        )
    elif result.outcome == "unchanged":
        text = f"{printable(host)} already serves this release ({result.release}); nothing was done"
    else:
        text = (
            f"{printable(host)} serves release {result.release} at {printable(result.endpoint)}, sent {size}"
            f"{_kept(result.replaces)}"
        )
    console.print(text, soft_wrap=True)


def _release_state(release: "ReleaseStatus") -> str:
    if release.current:
        return "current" if release.healthy else "current, never healthy"
    return "previous" if release.healthy else "never healthy"


def _kept(release: str | None) -> str:
    return "" if release is None else f"; {release} is kept for a rollback"


def _address(host: str, port: int | None, identity: Path | None, options: list[str] | None) -> "Address":
    from edgeexit.deploy import Address

    return Address(host=host, port=port, identity=identity, options=tuple(options or ()))


def _next_command(status: "DeviceStatus") -> str:
    """Return the next subcommand or argument: `rollback` if the current release fails and replaced a healthy one."""
    healthy = {release.id for release in status.releases if release.healthy}
    failed = [release for release in status.releases if release.current and not (status.serving and release.healthy)]
    return "rollback " if any(release.replaces in healthy for release in failed) else "BUNDLE "


def _connection_options(port: int | None, identity: Path | None, options: list[str] | None, path: str) -> str:
    """Return the options that the next command needs to reach the same deployment."""
    arguments = [] if port is None else ["--port", str(port)]
    arguments += [] if identity is None else ["--identity", str(identity)]
    arguments += [argument for option in options or () for argument in ("-o", option)]
    arguments += ["--path", path] if path != _FOLDER else []
    return "".join(f" {shlex.quote(argument)}" for argument in arguments)
