"""A deployment, step by step: preflight, copy, environment, engines, switch, start, then healthy or rollback.

The steps before the switch do not change the running agent, and an interrupted deployment continues when the same
command runs again. From the switch on, a process on the device does the work (`remote/activate.py`). It needs no
connection: it ends with the new release healthy, with the previous release started again, or, if there is no previous
release, with the agent stopped.
"""

import contextlib
import tempfile
import time
from pathlib import Path
from typing import Literal

from edgeexit.bundle import Bundle
from edgeexit.deploy.activation import activate, wait_for_earlier_step
from edgeexit.deploy.configuration import ReleaseConfiguration, read_configuration
from edgeexit.deploy.copying import copy_files
from edgeexit.deploy.device import Device, run_shell
from edgeexit.deploy.facts import check_folder, choose_python, clock_error_s, parse_facts
from edgeexit.deploy.options import DeployOptions
from edgeexit.deploy.packages import find_wheel
from edgeexit.deploy.preflight import DeploymentPlan, plan_deployment
from edgeexit.deploy.remote.documents import EnginesArguments, EnvironmentArguments, FinishArguments, StatusArguments
from edgeexit.deploy.result import DeploymentResult
from edgeexit.deploy.ssh import Connection
from edgeexit.deploy.steps import ENGINES, ENVIRONMENT, FINISH, STATUS
from edgeexit.deploy.trust import check_signature
from edgeexit.progress import NO_PROGRESS, Progress
from edgeexit.targets import load_target


def deploy(options: DeployOptions, *, progress: Progress = NO_PROGRESS) -> DeploymentResult:
    """Deploy a bundle to a device and wait until its agent is healthy.

    `progress` receives the steps `preflight`, `copy` (which advances by bytes), `environment`, `engines`, `switch`,
    `start`, and `healthy` or `rollback`.

    Raises BundleError, ConfigError or TargetError for an invalid option, before any file is copied; DeployError if
    the device cannot be reached or cannot run the bundle, or if a step fails; NotHealthyError if the release did not
    become healthy and the device has rolled back or stopped the agent.
    """
    progress.step("preflight")
    bundle = Bundle.open(options.bundle)
    if bundle.policy() is None:
        progress.warning("the bundle has no policy, so every sample runs to full depth; see `edgeexit fit`")
    configuration = _read_configuration(options, bundle, progress)
    target_name = options.target or bundle.manifest.target
    target = load_target(target_name)
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(Connection(options.address))
        facts = parse_facts(run_shell(connection, "facts.sh", options.folder, target.backend.system_module))
        python = choose_python(facts, target_name, target)
        device = Device(
            connection,
            python=python.program,
            root=facts.folder,
            retry_delays_s=options.retry_delays_s,
            progress=progress,
        )
        check_folder(facts)
        if not options.dry_run:
            stack.enter_context(device.locked())
            wait_for_earlier_step(device, progress=progress)
        plan = plan_deployment(
            options,
            bundle=bundle,
            configuration=configuration,
            target=target,
            facts=facts,
            python=python,
            wheel=options.wheel or find_wheel(Path(stack.enter_context(tempfile.TemporaryDirectory()))),
            device=device,
        )
        _report_warnings(plan, progress)
        current = plan.inventory["current"]
        if options.dry_run:
            replaces = None if current is None else current["id"]
            return _result(plan, "planned", release=None, replaces=replaces, sent_bytes=plan.missing_bytes)
        if current is not None and current["content_key"] == plan.release["content_key"] and _serves(plan, device):
            return _result(plan, "unchanged", release=current["id"], replaces=current["replaces"], sent_bytes=0)
        return _execute(plan, device, timeout_s=options.timeout_s, progress=progress)


def _read_configuration(options: DeployOptions, bundle: Bundle, progress: Progress) -> ReleaseConfiguration | None:
    if options.config is None:
        return None
    configuration = read_configuration(options.config)
    for warning in configuration.warnings:
        progress.warning(warning)
    check_signature(bundle, configuration)
    return configuration


def _serves(plan: DeploymentPlan, device: Device) -> bool:
    """Return True if the current release has been healthy and its agent serves now."""
    status = device.call(STATUS, StatusArguments(log_lines=0))
    return plan.inventory["current_healthy"] and status["pid"] is not None and status["health_error"] is None


def _execute(plan: DeploymentPlan, device: Device, *, timeout_s: float | None, progress: Progress) -> DeploymentResult:
    environment = plan.environment
    progress.step("copy")
    sent_bytes = copy_files(device, plan.files_to_copy, plan.release["content_key"], progress=progress)
    progress.step("environment")
    device.call(
        ENVIRONMENT,
        EnvironmentArguments(
            key=environment.key,
            requirements=list(environment.requirements),
            hashed=environment.hashed,
            offline=environment.offline,
            wheels={name: wheel.sha256 for name, wheel in zip(plan.wheel_names, environment.wheels, strict=True)},
            system_packages=environment.system_packages,
            probes=list(environment.probes),
        ),
    )
    release = device.call(FINISH, FinishArguments(release=plan.release))["id"]
    if plan.builds_engines:
        progress.step("engines")
        device.call(ENGINES, EnginesArguments(release=release))
    activation = activate(
        device,
        release,
        timeout_s=timeout_s or plan.release["start_timeout_s"],
        wheels=plan.wheel_names if plan.creates_environment else None,
        progress=progress,
    )
    progress.step("healthy")
    return _result(plan, "healthy", release=release, replaces=activation["replaces"], sent_bytes=sent_bytes)


def _result(
    plan: DeploymentPlan,
    outcome: Literal["healthy", "unchanged", "planned"],
    *,
    release: str | None,
    replaces: str | None,
    sent_bytes: int,
) -> DeploymentResult:
    endpoint = plan.release["configuration"]["endpoint"]
    host = f"[{endpoint['host']}]" if ":" in endpoint["host"] else endpoint["host"]
    return DeploymentResult(
        outcome=outcome,
        release=release,
        replaces=replaces,
        bundle=plan.release["bundle"],
        folder=plan.facts.folder,
        service=plan.release["service"],
        user=plan.facts.user,
        python=plan.environment.python,
        sent_bytes=sent_bytes,
        needed_bytes=plan.needed_bytes,
        free_bytes=plan.free_bytes,
        environment="created" if plan.creates_environment else "reused",
        endpoint=f"http://{host}:{endpoint['port']}",
    )


def _report_warnings(plan: DeploymentPlan, progress: Progress) -> None:
    if plan.creates_environment and not plan.environment.hashed and not plan.environment.offline:
        progress.warning(
            "the device installs packages from its index without checking their hashes; use the default lock file, "
            "--lock or --wheelhouse instead of --allow-unhashed"
        )
    if (error_s := clock_error_s(plan.facts, time.time())) is not None:
        progress.warning(
            f"the device's clock is off by {error_s / 3600:+.0f} h; set it, or the agent may reject valid certificates"
        )
    if plan.release["service"] == "process":
        progress.warning(
            "the agent runs as a plain process without systemd, so it is not restarted at boot or after a crash"
        )
    elif plan.facts.uid == 0:
        progress.warning("the agent runs as root, without capabilities; if possible, deploy as an unprivileged user")
