"""A deployment, step by step: preflight -> copy -> environment -> plans -> switch -> start -> healthy, or rollback.

Up to the switch nothing that runs on the device is touched, and whatever stops before it is taken up again by the same
command. From the switch on the device works by itself (`remote/activate.py`): it ends with an agent that serves, the
new one or the old one, also when the link is gone.
"""

import contextlib
import getpass
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from edgeexit import __version__
from edgeexit.bundle import Bundle
from edgeexit.deploy.activation import activate, settle
from edgeexit.deploy.configuration import Configuration, read_configuration
from edgeexit.deploy.copying import copy_files, described, missing_bytes
from edgeexit.deploy.device import Device, run_shell
from edgeexit.deploy.facts import (
    Facts,
    Supervisor,
    check_room,
    choose_python,
    choose_supervisor,
    clock_error_s,
    parse_facts,
    wanted_module,
)
from edgeexit.deploy.outcome import DeploymentOutcome, Listener
from edgeexit.deploy.packages import Environment, find_wheel, plan_environment, room_for
from edgeexit.deploy.payload import PayloadFile, bundle_files, content_key, local_file, text_file
from edgeexit.deploy.ssh import Address, Connection
from edgeexit.deploy.unit import Devices, render_unit, unit_name
from edgeexit.errors import DeployError
from edgeexit.targets import Target, is_users_own, list_targets, load_target

FOLDER: Final = "~/edgeexit"
UNIT_FILE: Final = "edgeexit.service"
_INDEX_BYTES: Final = 64 << 20
"""Wheels that a device's packages come as: measured, 54 MiB with ONNX Runtime for x86-64."""
_RESERVE_BYTES: Final = 32 << 20
_START_S: Final = 60.0
_START_WITH_PLANS_S: Final = 180.0
"""TensorRT opens its plans at every start."""


class DeployRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be deployed, and where to."""

    bundle: Path
    address: Address
    config: Path | None = None
    """Default: that of the device's current release."""
    target: str | None = None
    """What the device is described by; default: the target that the bundle was compiled for."""
    folder: str = FOLDER
    wheel: Path | None = None
    """Edgeexit's; default: the one that runs here."""
    wheelhouse: Path | None = None
    """Folder of all other wheels; default: the device asks its package index."""
    service: Literal["auto"] | Supervisor = "auto"
    timeout_s: float | None = None
    """How long the agent may take to serve; default: 60 s, with TensorRT 180 s."""
    dry_run: bool = False
    retry_delays_s: tuple[float, ...] | None = None
    """Waits before each new try after the link has dropped."""


class _Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What preflight has found out; all later steps follow from it."""

    facts: Facts
    inventory: dict[str, Any]
    release_files: tuple[PayloadFile, ...]
    environment: Environment
    document: dict[str, Any]
    """The release's own, but for its id."""
    key: str
    """Of the release's content; the copy goes on under it."""
    send_bytes: int
    needed_bytes: int
    has_plans: bool
    """Whether its stages run as TensorRT plans, which are built on the device."""

    @property
    def makes_environment(self) -> bool:
        return self.environment.key not in self.inventory["venvs"]


def deploy(request: DeployRequest, listener: Listener | None = None) -> DeploymentOutcome:
    """Bring a bundle to a device and let it serve there.

    Raises an EdgeExitError: BundleError, ConfigError, TargetError for what is wrong here, before anything is sent;
    DeployError for what is wrong there; NotHealthyError where the device has gone back to what it had.
    """
    listener = listener or Listener()
    listener.on_step("preflight")
    bundle = Bundle.open(request.bundle)
    if bundle.policy() is None:
        listener.say("the bundle has no policy, so every sample will run to full depth; see `edgeexit fit`")
    configuration = None if request.config is None else read_configuration(request.config)
    if configuration is not None and configuration.signed_bundle and not bundle.is_signed:
        raise DeployError(f"the configuration asks for a signed bundle and '{bundle.path}' is not; see `edgeexit sign`")
    name = request.target or bundle.manifest.target
    target = load_target(name)
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(Connection(request.address))
        facts = parse_facts(run_shell(connection, "facts.sh", request.folder, wanted_module(target)))
        python = choose_python(facts, name, target)
        device = Device(
            connection, python=python.program, root=facts.folder, say=listener.say,
            retry_delays_s=request.retry_delays_s,
        )  # fmt: skip
        check_room(facts, 0)
        if not request.dry_run:
            stack.enter_context(device.locked())
            settle(device, listener)
        wheel = request.wheel or find_wheel(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        environment = plan_environment(target, facts, python, wheel, request.wheelhouse)
        plan = _plan(request, bundle, target, configuration, facts, device, environment)
        _tell_troubles(plan, listener)
        if request.dry_run:
            return _outcome(plan, "planned", release=None, replaces=None, sent=plan.send_bytes)
        current = plan.inventory["current"]
        if current is not None and current["key"] == plan.key and _serves(plan, device):
            return _outcome(plan, "unchanged", release=current["id"], replaces=current.get("replaces"), sent=0)
        return _carry_out(plan, request, device, listener)


def _serves(plan: _Plan, device: Device) -> bool:
    """Return whether the current release has been found healthy and its agent still serves."""
    seen = device.call("watch", log_lines=0)
    return plan.inventory["current_healthy"] and seen["pid"] is not None and seen["trouble"] is None


def _plan(  # noqa: PLR0917 - all that preflight has gathered
    request: DeployRequest,
    bundle: Bundle,
    target: Target,
    configuration: Configuration | None,
    facts: Facts,
    device: Device,
    environment: Environment,
) -> _Plan:
    if configuration is None:
        current = device.call("inventory")["current"]
        if current is None:
            raise DeployError("the first deployment to a device needs --config agent.toml")
        configuration = msgspec.convert(current["configuration"], Configuration)
    supervisor = choose_supervisor(facts, request.service)
    name = unit_name(facts.folder)
    files = [*bundle_files(bundle), *configuration.files, *_users_targets(bundle, request)]
    if supervisor != "process":
        unit = render_unit(
            facts.folder,
            manager="system" if supervisor == "systemd" else "user",
            user=facts.user,
            devices=_devices(target),
            writable=configuration.writable,
            python=environment.python,
        )
        files.append(text_file(UNIT_FILE, unit))
    key = content_key(files, environment.key, supervisor)
    sent = [*files, *environment.wheels]
    inventory = device.call("inventory", files=described(sent, key))
    makes = environment.key not in inventory["venvs"]
    missing = missing_bytes(inventory, sent if makes else files, key)
    needed = missing + (room_for(environment, _INDEX_BYTES) if makes else 0) + _RESERVE_BYTES
    check_room(facts, needed)
    here = msgspec.structs.replace(configuration, files=tuple(_known_there(file) for file in configuration.files))
    document = {
        "bundle": bundle.digest,
        "model": bundle.manifest.model,
        "target": request.target or bundle.manifest.target,
        "key": key,
        "venv": environment.key,
        "edgeexit": __version__,
        "wheel_sha256": environment.wheels[0].sha256,
        "python": environment.python,
        "service": supervisor,
        "name": name,
        "endpoint": list(configuration.endpoint),
        "configuration": msgspec.to_builtins(here),
        "deployed_by": f"{getpass.getuser()}@{platform.node()}",
        "deployed_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "replaces": None,
    }
    return _Plan(
        facts=facts, inventory=inventory, release_files=tuple(files), environment=environment, document=document,
        key=key, send_bytes=missing, needed_bytes=needed,
        has_plans="onnxruntime" not in {target.runtime, load_target(bundle.manifest.target).runtime},
    )  # fmt: skip


def _carry_out(plan: _Plan, request: DeployRequest, device: Device, listener: Listener) -> DeploymentOutcome:
    listener.on_step("copy")
    files = [*plan.release_files, *(plan.environment.wheels if plan.makes_environment else ())]
    sent = copy_files(device, files, plan.key, listener.on_bytes)
    listener.on_step("environment")
    wheels = f"{device.root}/wheels"
    environment = plan.environment
    device.call(
        "environment",
        key=environment.key,
        requirements=[requirement.format(wheels=wheels) for requirement in environment.requirements],
        offline=environment.offline,
        wheels=[Path(file.name).name for file in environment.wheels],
        system_packages=environment.system_packages,
        probes=environment.probes,
    )
    release = device.call("finish", key=plan.key, document=plan.document)["id"]
    if plan.has_plans:
        listener.on_step("plans")
        device.call("plans", release=release)
    timeout_s = request.timeout_s or (_START_WITH_PLANS_S if plan.has_plans else _START_S)
    kept = [Path(file.name).name for file in environment.wheels]
    activation = activate(
        device, release, timeout_s=timeout_s, listener=listener, wheels=kept if plan.makes_environment else None
    )
    listener.on_step("healthy")
    return _outcome(plan, "healthy", release=release, replaces=activation["replaces"], sent=sent)


def _outcome(
    plan: _Plan, outcome: Literal["healthy", "unchanged", "planned"], *, release: str | None, replaces: str | None,
    sent: int,
) -> DeploymentOutcome:  # fmt: skip
    current = plan.inventory["current"]
    host, port = plan.document["endpoint"]
    return DeploymentOutcome(
        outcome=outcome,
        release=release,
        replaces=replaces if outcome != "planned" or current is None else current["id"],
        bundle=plan.document["bundle"],
        folder=plan.facts.folder,
        service=plan.document["service"],
        user=plan.facts.user,
        python=plan.environment.python,
        send_bytes=sent,
        needed_bytes=plan.needed_bytes,
        free_bytes=plan.facts.free_kib * 1024,
        environment="made" if plan.makes_environment else "kept",
        endpoint=f"http://{f'[{host}]' if ':' in host else host}:{port}",
    )


def _tell_troubles(plan: _Plan, listener: Listener) -> None:
    if (error_s := clock_error_s(plan.facts, time.time())) is not None:
        listener.say(f"the device's clock is off by {error_s / 3600:+.0f} h; certificates may not be believed there")
    if plan.document["service"] == "process":
        listener.say(
            "no systemd to be had there: the agent runs as a plain process, not restarted at boot or after a crash"
        )
    elif plan.facts.uid == 0:
        listener.say("the agent will run as root, without capabilities; deploy as a user of its own where you can")


def _devices(target: Target) -> Devices:
    if target.runtime != "onnxruntime" or target.telemetry == "jetson":
        return "gpu"
    return "raspberry-pi" if target.telemetry == "raspberry-pi" else "none"


def _users_targets(bundle: Bundle, request: DeployRequest) -> Iterator[PayloadFile]:
    """Yield the user's own target files that the bundle needs; the agent looks for them where it starts."""
    known = list_targets()
    for name in sorted({bundle.manifest.target, request.target or bundle.manifest.target}):
        if name in known and is_users_own(known[name]):
            yield local_file(f"targets/{name}.toml", known[name])


def _known_there(file: PayloadFile) -> PayloadFile:
    return msgspec.structs.replace(file, source=None, content=None)
