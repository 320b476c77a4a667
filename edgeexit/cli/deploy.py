"""`edgeexit deploy`: bring a bundle to a device over SSH, go back, see what runs there, print the systemd unit."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from typer.core import TyperGroup

from edgeexit.console import console, next_step, notes, print_json, print_table, printable, warn

if TYPE_CHECKING:
    from edgeexit.deploy import Address, DeviceStatus, Listener

_MIB = 1 << 20
_INTERRUPTED = 130
_PUSH = "push"


class _PushByDefault(TyperGroup):
    """A group whose first command needs no name: `deploy BUNDLE HOST` is `deploy push BUNDLE HOST`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in {"--help", "-h"}:
            args = [_PUSH, *args]
        return super().parse_args(ctx, args)


deploy_app = typer.Typer(
    name="deploy",
    cls=_PushByDefault,
    help=(
        "Bring a bundle to a device over SSH and let it serve there; it goes back by itself where that fails.\n\n"
        "Examples: `edgeexit deploy mybundle pi@camera-17 --config agent.toml`, "
        "`edgeexit deploy rollback pi@camera-17`, `edgeexit deploy status pi@camera-17`"
    ),
    no_args_is_help=True,
)

HostArgument = Annotated[str, typer.Argument(metavar="USER@HOST", help="The device; names of ~/.ssh/config will do.")]
PortOption = Annotated[int | None, typer.Option(min=1, max=65535, help="Port of its SSH server.")]
IdentityOption = Annotated[Path | None, typer.Option(help="Private key to log in with.")]
SshOption = Annotated[list[str] | None, typer.Option("--ssh-option", "-o", help="NAME=VALUE for ssh, once each.")]
FolderOption = Annotated[str, typer.Option("--path", help="Folder on the device.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


class ServiceKind(str, Enum):
    """What supervises the agent."""

    AUTO = "auto"
    SYSTEMD = "systemd"
    USER = "user"
    PROCESS = "process"


class ManagerKind(str, Enum):
    """Whose systemd a unit is for."""

    SYSTEM = "system"
    USER = "user"


class DevicesKind(str, Enum):
    """What of /dev an agent needs."""

    NONE = "none"
    RASPBERRY_PI = "raspberry-pi"
    GPU = "gpu"


@deploy_app.command(_PUSH)
def push_command(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    host: HostArgument,
    config: Annotated[
        Path | None, typer.Option(help="The agent's configuration; default: that of the release that runs there.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Target that describes the device; default: the bundle's own.")
    ] = None,
    port: PortOption = None,
    identity: IdentityOption = None,
    ssh_option: SshOption = None,
    path: FolderOption = "~/edgeexit",
    wheel: Annotated[
        Path | None, typer.Option(help="Wheel of edgeexit to install; default: made from the one that runs here.")
    ] = None,
    wheelhouse: Annotated[
        Path | None, typer.Option(help="Folder of all other wheels, for a device that reaches no package index.")
    ] = None,
    service: Annotated[ServiceKind, typer.Option(help="What supervises the agent there.")] = ServiceKind.AUTO,
    timeout: Annotated[
        float | None, typer.Option(min=1, help="Seconds in which it has to serve; default: 60, with TensorRT 180.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and say what would be done.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Copy a bundle to a device, switch to it, wait until it serves; else go back to what ran before.

    Example: `edgeexit deploy mybundle pi@camera-17 --config agent.toml --wheelhouse wheels`
    """
    from edgeexit.deploy import DeployRequest, deploy

    request = DeployRequest(
        bundle=bundle,
        address=_address(host, port, identity, ssh_option),
        config=config,
        target=target,
        folder=path,
        wheel=wheel,
        wheelhouse=wheelhouse,
        service=service.value,
        timeout_s=timeout,
        dry_run=dry_run,
    )
    with _told() as listener:
        outcome = deploy(request, listener)
    if as_json:
        print_json(outcome)
        return
    size = f"{outcome.send_bytes / _MIB:.1f} MiB"
    if outcome.outcome == "planned":
        environment = "make an environment" if outcome.environment == "made" else "keep the environment"
        console.print(
            f"would send {size}, {environment} with {printable(outcome.python)}, "
            f"replace {outcome.replaces or 'nothing'}; service: {outcome.service}; "
            f"needs {outcome.needed_bytes / _MIB:.0f} MiB of {outcome.free_bytes / _MIB:.0f} MiB free in "
            f"{printable(outcome.folder)}",
            soft_wrap=True,
        )
        next_step("the same command without --dry-run")
        return
    if outcome.outcome == "unchanged":
        console.print(f"{printable(host)} serves just this already (release {outcome.release}); nothing was done")
    else:
        console.print(
            f"{printable(host)} serves release {outcome.release} at {printable(outcome.endpoint)}, sent {size}"
            + (f"; {outcome.replaces} is kept" if outcome.replaces else ""),
            soft_wrap=True,
        )
    next_step(f"edgeexit deploy status {shlex.quote(host)}" + _where(port, identity, ssh_option, path))


@deploy_app.command("rollback")
def rollback_command(
    host: HostArgument,
    to: Annotated[str | None, typer.Option(help="Release; default: the one that the current one replaced.")] = None,
    port: PortOption = None,
    identity: IdentityOption = None,
    ssh_option: SshOption = None,
    path: FolderOption = "~/edgeexit",
    timeout: Annotated[float, typer.Option(min=1, help="Seconds in which it has to serve.")] = 60.0,
    as_json: JsonOption = False,
) -> None:
    """Go back to the release before; once more, and it goes forward again.

    Example: `edgeexit deploy rollback pi@camera-17`
    """
    from edgeexit.deploy import roll_back

    address = _address(host, port, identity, ssh_option)
    with _told() as listener:
        done = roll_back(address, to=to, folder=path, timeout_s=timeout, listener=listener)
    if as_json:
        print_json(done)
        return
    console.print(
        f"{printable(host)} serves release {done.release}" + (f"; {done.replaces} is kept" if done.replaces else "")
    )
    next_step(f"edgeexit deploy status {shlex.quote(host)}" + _where(port, identity, ssh_option, path))


@deploy_app.command("status")
def status_command(
    host: HostArgument,
    port: PortOption = None,
    identity: IdentityOption = None,
    ssh_option: SshOption = None,
    path: FolderOption = "~/edgeexit",
    as_json: JsonOption = False,
) -> None:
    """Show what a device has and whether it serves; changes nothing there.

    Example: `edgeexit deploy status pi@camera-17`
    """
    from edgeexit.deploy import device_status

    view = device_status(_address(host, port, identity, ssh_option), folder=path)
    if as_json:
        print_json(view)
        return
    where = _where(port, identity, ssh_option, path)
    if view.current is None:
        console.print(f"nothing is deployed in {printable(view.folder)} on {printable(host)}", soft_wrap=True)
        next_step(f"edgeexit deploy BUNDLE {shlex.quote(host)} --config agent.toml" + where)
        return
    state = f"serves (process {view.pid}, {view.service})" if view.serving else f"does not serve: {view.trouble}"
    print_table(
        printable(f"{host}: {state}"),
        ("release", "model", "bundle", "policy", "edgeexit", "deployed", "by", ""),
        [
            (
                release.id,
                release.model,
                release.bundle[:12],
                "yes" if release.has_policy else "none",
                release.edgeexit,
                release.deployed_at,
                release.deployed_by,
                "current" if release.current else "kept" if release.healthy else "never healthy",
            )
            for release in view.releases
        ],
    )
    if not view.serving:
        for line in view.log:
            notes.print(f"  {printable(line)}", soft_wrap=True)
    next_step(f"edgeexit deploy {_remedy(view)}{shlex.quote(host)}" + where)


@deploy_app.command("unit")
def unit_command(
    path: Annotated[str, typer.Option("--path", help="Absolute folder of the deployment on the device.")],
    user: Annotated[str, typer.Option(help="Whom the agent runs as.")] = "",
    manager: Annotated[ManagerKind, typer.Option(help="Whose systemd.")] = ManagerKind.SYSTEM,
    devices: Annotated[DevicesKind, typer.Option(help="What it needs of /dev.")] = DevicesKind.NONE,
) -> None:
    """Print the systemd unit for an agent that is installed by hand.

    Example: `edgeexit deploy unit --path /opt/edgeexit --user edge > edgeexit.service`
    """
    from edgeexit.deploy.unit import render_unit

    typer.echo(render_unit(path, manager=manager.value, user=user, devices=devices.value), nl=False)


def _address(host: str, port: int | None, identity: Path | None, options: list[str] | None) -> "Address":
    from edgeexit.deploy import Address

    return Address(host=host, port=port, identity=identity, options=tuple(options or ()))


def _remedy(view: "DeviceStatus") -> str:
    """Return what a device can be told next: to go back where that helps, else to take a bundle."""
    earlier = {release.id for release in view.releases if release.healthy}
    wrong = [release for release in view.releases if release.current and not (view.serving and release.healthy)]
    return "rollback " if any(release.replaces in earlier for release in wrong) else "BUNDLE "


def _where(port: int | None, identity: Path | None, options: list[str] | None, path: str) -> str:
    """Return the options that the next command needs, too."""
    words = [] if port is None else ["--port", str(port)]
    words += [] if identity is None else ["--identity", str(identity)]
    words += [word for option in options or () for word in ("-o", option)]
    words += ["--path", path] if path != "~/edgeexit" else []
    return "".join(f" {shlex.quote(word)}" for word in words)


@contextmanager
def _told() -> Iterator["Listener"]:
    """Give a listener that shows steps and bytes; say what an interruption leaves, and an agent's last words.

    On a terminal a bar, elsewhere a line a step.
    """
    from edgeexit.deploy import Listener, NotHealthyError

    step = ""
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[amount]}"), TimeElapsedColumn()
    with Progress(*columns, console=notes, transient=True, disable=not notes.is_terminal) as bar:
        task = bar.add_task("connecting", total=None, amount="")

        def on_step(name: str) -> None:
            nonlocal step
            step = name
            bar.reset(task, description=name, total=None, amount="")
            if not notes.is_terminal:
                notes.print(f"{name} ...")

        def on_bytes(sent: int, total: int) -> None:
            bar.update(task, completed=sent, total=total, amount=f"{sent / _MIB:.1f} of {total / _MIB:.1f} MiB")

        try:
            yield Listener(on_step=on_step, on_bytes=on_bytes, say=warn)
        except NotHealthyError as error:
            bar.stop()
            for line in error.log:
                notes.print(f"  {printable(line)}", soft_wrap=True)
            raise
        except KeyboardInterrupt:
            bar.stop()
            notes.print(
                "the device goes on by itself and ends with an agent that serves"
                if step in {"switch", "start", "rollback"}
                else "what runs on the device is untouched, and the same command goes on from here"
            )
            raise typer.Exit(_INTERRUPTED) from None
