"""`edgeexit calibrator register`: registers a cohort with its maximum risk."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeexit.cli.calibrator.cost_text import costs_text
from edgeexit.cli.calibrator.loss_texts import LOSS_TEXTS
from edgeexit.cli.calibrator.shared_options import DATABASE, DatabaseOption, current_user
from edgeexit.cli.fit_goals import risk_goal
from edgeexit.cli.rejected_profile import rejected_profile
from edgeexit.console import console, next_step, printable, warn
from edgeexit.formatting import percent

if TYPE_CHECKING:
    from edgeexit_calibration import RegistrationResult

    from edgeexit.policies.document import Loss


def register_command(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle; it must contain a policy.")],
    fleet: Annotated[str, typer.Option(help="Name of the fleet.")],
    cohort: Annotated[str, typer.Option(help="Name of the cohort, as in the configuration of its devices.")],
    max_risk: Annotated[
        float | None,
        typer.Option(
            help="Maximum fraction of predictions that may have the loss, see --loss. Default: the registered one, or "
            "else 0.05."
        ),
    ] = None,
    delta: Annotated[
        float | None,
        typer.Option(
            help="Probability with which the certificate may be wrong. Default: the registered one, or else 0.1."
        ),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            help="What counts: `disagreement` (the prediction differs from the final exit's) or `regret` (it is wrong "
            "where the final exit's is right; only audits with a label count). Default: the registered loss, or else "
            "disagreement."
        ),
    ] = None,
    max_latency_ms: Annotated[
        float | None,
        typer.Option(
            help="Bound on the latency of a sample on each device, in ms; a device on which the policy breaks it "
            "returns to its last good policy.",
            min=0.001,
        ),
    ] = None,
    max_latency_quantile: Annotated[
        float, typer.Option(help="Fraction of the samples that must keep the bound of --max-latency-ms.")
    ] = 0.99,
    budget_ms: Annotated[
        float | None,
        typer.Option(
            help="Bound on the mean cost of a sample, in ms: the calibrator chooses the safest certified policy within "
            "it, or else the cheapest one. A later registration keeps it.",
        ),
    ] = None,
    no_budget: Annotated[
        bool, typer.Option("--no-budget", help="Remove the budget: the cheapest certified policy is chosen.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Take the costs from the profile even if it is invalid (the machine was busy)."),
    ] = False,
    trust: Annotated[
        list[Path] | None,
        typer.Option(help="Public key; the bundle must be signed by one of the keys. May be repeated."),
    ] = None,
    database: DatabaseOption = DATABASE,
) -> None:
    """Register a cohort, so that the calibrator publishes, watches and adapts its policy.

    Registering a cohort again changes what you name; the risk, delta, the loss, a latency bound and a budget stay
    otherwise. If the bundle has a new policy, it becomes the next revision.

    Example: `edgeexit calibrator register quickstart/bundle --fleet shop --cohort cameras --max-risk 0.05`
    """
    from edgeexit_calibration import open_database, register

    from edgeexit.bundle import Bundle
    from edgeexit.errors import ConfigError
    from edgeexit.policies.document import LatencyBound
    from edgeexit.signing import load_public_key

    if not 0 < max_latency_quantile < 1:
        raise ConfigError(f"--max-latency-quantile {max_latency_quantile:g} must be between 0 and 1, e.g. 0.99")
    if budget_ms is not None and no_budget:
        raise ConfigError(f"--budget-ms {budget_ms:g} and --no-budget exclude each other; give one of them")
    bound = None if max_latency_ms is None else LatencyBound(quantile=max_latency_quantile, ms=max_latency_ms)
    checked_loss = None if loss is None else _checked_loss(loss)
    risk_goal(max_risk, delta)
    opened = Bundle.open(bundle, trusted_keys=[load_public_key(path) for path in trust or ()])
    costs = opened.costs(force=force)
    if trust and costs.unit == "ms" and opened.has_unsigned_profile:
        warn(f"the costs are from profile.json, which is not signed; to sign it: edgeexit sign {bundle} --key KEY")
    store = open_database(database)
    result = register(
        store,
        opened,
        fleet=fleet,
        cohort=cohort,
        user=current_user(),
        risk=max_risk,
        delta=delta,
        loss=checked_loss,
        costs=costs,
        max_latency=bound,
        budget_ms=budget_ms,
        no_budget=no_budget,
    )
    store.close()
    if costs.rejected and not result.costs.devices:
        warn(f"{rejected_profile(bundle, costs)}. Costs are multiply-accumulates")
    change = "new revision" if result.is_new_revision else "unchanged revision"
    console.print(
        f"registered {printable(opened.manifest.model)} for {result.cohort}: maximum {result.loss} "
        f"{percent(result.risk)} with probability {100 * (1 - result.delta):g} %; {change} {result.revision}"
    )
    _print_budget(result, is_kept=budget_ms is None)
    _warn_about_policy(result)
    next_step(f"edgeexit calibrator run --fleet {fleet} --database {store.name} --key calibrator.key")


def _print_budget(result: "RegistrationResult", *, is_kept: bool) -> None:
    """Print the budget and the costs with which it is compared, if there is one."""
    if result.budget_ms is None:
        return
    kept = ", as registered before (--no-budget removes it)" if is_kept else ""
    console.print(f"budget {result.budget_ms:g} ms per sample{kept}; costs of the exits: {costs_text(result.costs)}")
    if result.costs.unit != "ms":
        warn("the budget has no effect until the costs are in ms: profile the bundle, or devices of the cohort")
    elif result.budget_ms >= result.costs.cumulative[-1]:
        warn(
            f"every policy meets the budget, full depth too, which costs {result.costs.cumulative[-1]:.3g} ms; the "
            "calibrator will choose full depth, the safest one"
        )


def _checked_loss(loss: str) -> "Loss":
    from edgeexit.errors import ConfigError

    for known in LOSS_TEXTS:
        if loss == known:
            return known
    raise ConfigError(f"--loss '{loss}' is not known; use one of {', '.join(LOSS_TEXTS)}")


def _warn_about_policy(result: "RegistrationResult") -> None:
    """Warn if the current policy has no certificate for the maximum risk."""
    if result.certified_risk is not None and result.certified_risk <= result.risk:
        return
    if result.certificate is None:
        known = "not certified"
    elif result.certified_risk is None:
        known = f"certified for its {result.certificate.loss}, which says nothing about its {result.loss}"
    else:
        known = f"certified for {percent(result.certified_risk)} only"
    warn(
        f"the policy of revision {result.revision} is {known}; it stays in use until the "
        f"{result.loss} of audits exceeds {percent(result.risk)}"
    )
