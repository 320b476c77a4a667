"""The first step of a deployment: check the bundle and the device, and plan the other steps; nothing is changed."""

import getpass
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from edgeexit import __version__
from edgeexit.bundle import Bundle
from edgeexit.deploy.configuration import ReleaseConfiguration
from edgeexit.deploy.copying import file_entries, missing_bytes
from edgeexit.deploy.device import Device
from edgeexit.deploy.facts import DeviceFacts, Interpreter, ServiceManager, choose_service_manager
from edgeexit.deploy.options import DeployOptions
from edgeexit.deploy.packages import Environment, installed_bytes, plan_environment
from edgeexit.deploy.payload import PayloadFile, bundle_files, content_key, local_file, text_file
from edgeexit.deploy.remote.documents import InventoryArguments, InventoryReply, NewReleaseDocument
from edgeexit.deploy.remote.layout import CACHE, INCOMING, VENVS, WHEELS
from edgeexit.deploy.space import check_space
from edgeexit.deploy.steps import INVENTORY
from edgeexit.deploy.trust import check_signature
from edgeexit.deploy.unit import DeviceAccess, render_unit, unit_name
from edgeexit.errors import DeployError
from edgeexit.targets import Target, is_users_own, list_targets, load_target

UNIT_FILE: Final = "edgeexit.service"
_INDEX_BYTES: Final = 64 << 20
"""Estimated size of the wheels that a device downloads from its package index.

Measured: 54 MiB with ONNX Runtime for x86-64."""


class DeploymentPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What the steps after preflight do."""

    facts: DeviceFacts
    inventory: InventoryReply
    release_files: tuple[PayloadFile, ...]
    environment: Environment
    release: NewReleaseDocument
    missing_bytes: int
    """Bytes that have to be sent."""
    needed_bytes: int
    """Estimate of the free space that is needed on the device's file system that is filled most."""
    free_bytes: int
    """Free space on that file system."""
    builds_engines: bool
    """The device builds engines before the switch."""

    @property
    def creates_environment(self) -> bool:
        """True if the device does not have the Python environment yet."""
        return self.environment.key not in self.inventory["environments"]

    @property
    def files_to_copy(self) -> list[PayloadFile]:
        """The files of the release and, for a new environment, its wheels."""
        return [*self.release_files, *(self.environment.wheels if self.creates_environment else ())]

    @property
    def wheel_names(self) -> list[str]:
        """File names of the environment's wheels."""
        return [Path(wheel.name).name for wheel in self.environment.wheels]


def plan_deployment(
    options: DeployOptions,
    *,
    bundle: Bundle,
    configuration: ReleaseConfiguration | None,
    target: Target,
    facts: DeviceFacts,
    python: Interpreter,
    wheel: Path,
    device: Device,
) -> DeploymentPlan:
    """Plan a deployment from the needs of the release and the inventory of the device.

    Raises DeployError if the device has too little space or not the wanted service manager, if the wheelhouse has no
    wheel for its Python, if neither the options nor the device have a configuration, or if no key that the
    configuration trusts signed the bundle. Raises ConfigError if a path or the user cannot be used in a systemd unit.
    """
    if configuration is None:
        current = device.call(INVENTORY, InventoryArguments(files=[], folders=[]))["current"]
        if current is None:
            raise DeployError(f"the first deployment to '{facts.folder}' on the device needs --config agent.toml")
        configuration = ReleaseConfiguration.from_document(current["configuration"])
    check_signature(bundle, configuration, device)
    environment = plan_environment(
        target, facts, python, wheel, options.wheelhouse, lock=options.lock, allow_unhashed=options.allow_unhashed
    )
    service = choose_service_manager(facts, options.service)
    files = [*bundle_files(bundle), *configuration.files, *_user_targets(bundle, options)]
    if service != "process":
        files.append(text_file(UNIT_FILE, _unit_text(service, facts, target, configuration, environment)))
    key = content_key(files, environment.key, service)
    folders = {name: f"{facts.folder}/{name}" for name in (INCOMING, WHEELS, VENVS, CACHE)}
    inventory = device.call(
        INVENTORY,
        InventoryArguments(files=file_entries([*files, *environment.wheels], key), folders=list(folders.values())),
    )
    wheels = environment.wheels if environment.key not in inventory["environments"] else ()
    # `--target` may name another target than the bundle's; engines are built only if the backends of both build them.
    backends = (target.backend, load_target(bundle.manifest.target).backend)
    builds_engines = all(backend.builds_engines for backend in backends)
    copied = {INCOMING: missing_bytes(inventory, files, key), WHEELS: missing_bytes(inventory, wheels, key)}
    needs = {
        **copied,
        VENVS: installed_bytes(environment, _INDEX_BYTES) if wheels else 0,
        CACHE: sum(file.size for file in files) if builds_engines else 0,  # an engine is about as large as its graph
    }
    needed, free = check_space({folders[name]: size for name, size in needs.items()}, inventory["spaces"])
    return DeploymentPlan(
        facts=facts,
        inventory=inventory,
        release_files=tuple(files),
        environment=environment,
        release={
            "bundle": bundle.digest,
            "model": bundle.manifest.model,
            "target": options.target or bundle.manifest.target,
            "content_key": key,
            "environment": environment.key,
            "edgeexit_version": __version__,
            "wheel_sha256": environment.wheels[0].sha256,
            "python": environment.python,
            "service": service,
            "unit_name": unit_name(facts.folder),
            "start_timeout_s": min(backend.start_timeout_s for backend in backends),
            "configuration": configuration.to_document(),
            "deployed_by": f"{getpass.getuser()}@{platform.node()}",
            "deployed_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        },
        missing_bytes=sum(copied.values()),
        needed_bytes=needed,
        free_bytes=free,
        builds_engines=builds_engines,
    )


def _unit_text(
    service: ServiceManager,
    facts: DeviceFacts,
    target: Target,
    configuration: ReleaseConfiguration,
    environment: Environment,
) -> str:
    return render_unit(
        facts.folder,
        manager="system" if service == "systemd" else "user",
        user=facts.user,
        devices=_device_access(target),
        writable_folders=configuration.writable_folders,
        python=environment.python,
    )


def _device_access(target: Target) -> DeviceAccess:
    if target.backend.device_access == "gpu" or target.telemetry == "jetson":
        return "gpu"
    return "raspberry-pi" if target.telemetry == "raspberry-pi" else "none"


def _user_targets(bundle: Bundle, options: DeployOptions) -> Iterator[PayloadFile]:
    """Yield the files of the targets that the user defined and the release needs; the agent reads `targets/`."""
    targets = list_targets()
    for name in sorted({bundle.manifest.target, options.target or bundle.manifest.target}):
        if name in targets and is_users_own(targets[name]):
            yield local_file(f"targets/{name}.toml", targets[name].parent, targets[name].name)
