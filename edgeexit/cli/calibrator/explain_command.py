"""`edgeexit calibrator explain`: why the policy of a cohort is what it is, and what would change it."""

from math import ceil
from typing import TYPE_CHECKING, Annotated, Final

import typer

from edgeexit.cli.calibrator.cost_text import costs_text
from edgeexit.cli.calibrator.loss_texts import LOSS_TEXTS, LOSSES_OF_SAMPLES
from edgeexit.cli.calibrator.shared_options import DATABASE, DatabaseOption, JsonOption
from edgeexit.cli.calibrator.status_rows import mix_text
from edgeexit.console import console, next_step, print_json, printable
from edgeexit.formatting import percent

if TYPE_CHECKING:
    from edgeexit_calibration import Accuracy, BudgetState, Explanation, PolicyView

_TIME: Final = "%Y-%m-%d %H:%M:%S UTC"
_HOURS_PER_DAY: Final = 24
_SECONDS_PER_MINUTE: Final = 60
_LABEL_WIDTH: Final = 9
_EARLIER_CHANGES: Final = 2
"""Changes that are shown before the one that put the policy in force."""


def explain_command(
    cohort: Annotated[
        str,
        typer.Argument(help="COHORT, FLEET/COHORT or FLEET/BUNDLE/COHORT, as `status` prints it.", metavar="COHORT"),
    ],
    database: DatabaseOption = DATABASE,
    as_json: JsonOption = False,
) -> None:
    """Explain the policy in force: why it is, what it costs, what would make it bolder, how soon an alarm comes.

    Times are those in which as many audits arrive, at the recent rate.

    Example: `edgeexit calibrator explain cameras`
    """
    from datetime import datetime, timezone

    from edgeexit_calibration import explain, find_cohorts, open_database

    store = open_database(database, create=False)
    address = find_cohorts(store, cohort)[0]
    found = explain(store, address, now=datetime.now(timezone.utc))
    store.close()
    if as_json:
        print_json(found)
        return
    console.print(
        printable(
            f"{found.address}: with confidence {percent(1 - found.delta)}, at most {percent(found.risk)} of the "
            f"{_losses(found)}"
        ),
        soft_wrap=True,
    )
    for label, text in explanation_lines(found):
        console.print(f"[bold]{label:{_LABEL_WIDTH}}[/]{printable(text)}", soft_wrap=True)
    next_step(f"edgeexit calibrator history --cohort {address} --database {store.name}")


def explanation_lines(found: "Explanation") -> list[tuple[str, str]]:
    """Return the label and the text of each line; a line that would say nothing new is left out."""
    earlier = found.changes[:-1][-_EARLIER_CHANGES:]
    changes = [("" if number else "changes", _change(policy)) for number, policy in enumerate(earlier)]
    return [
        ("policy", _policy(found.policy, found.unit)),
        ("cost", _cost(found)),
        *([("costs", costs_text(found.costs))] if found.costs.unit == "ms" else []),
        *([] if found.budget is None else [("budget", _budget(found, found.budget))]),
        *([("accuracy", _accuracy(found.accuracy))] if found.accuracy.samples else []),
        ("bolder", _bolder(found)),
        ("alarm", _alarm(found)),
        *_raised_audits(found),
        *_bounds(found),
        *_devices(found),
        *changes,
    ]


def _policy(policy: "PolicyView", unit: str) -> str:
    certificate = policy.certificate
    unpublished = "" if policy.published_at else " (not published yet)"
    since = f"{policy.created_at:{_TIME}}{unpublished}"
    text = f"revision {policy.revision} since {since}, by {policy.created_by}: {policy.reason}; "
    if certificate is None:
        return text + "it has no certificate"
    of_maps = "" if unit == "samples" else f"of the {unit} "
    return (
        f"{text}certificate: {percent(certificate.observed)} {of_maps}of {certificate.samples:,} samples "
        f"{LOSSES_OF_SAMPLES[certificate.loss]}, the risk is at most {percent(certificate.upper_bound)}"
    )


def _cost(found: "Explanation") -> str:
    if found.cost is None:
        return f"not known yet: no audit{_labelled(found)} has arrived since the last alarm or registration"
    return (
        f"{percent(found.cost)} of full depth on the audits since the last alarm or registration ({found.audits:,}); "
        f"exits {', '.join(found.exits)}: {mix_text(found.exit_rates)}"
    )


def _budget(found: "Explanation", budget: "BudgetState") -> str:
    bound = f"{budget.budget_ms:g} ms per sample"
    if found.costs.unit != "ms":
        return f"{bound}, which has no effect until the costs are in ms: profile devices of the cohort"
    if budget.cost_ms is None or budget.lowest_ms is None:
        return bound
    if budget.is_met:
        return f"{bound}, met: the policy costs {budget.cost_ms:.3g} ms"
    text = f"{bound}, not met: the policy costs {budget.cost_ms:.3g} ms; "
    if budget.audits_missing == 0:
        return text + "a policy that meets it is certified and follows at one of the next checks"
    if budget.audits_missing is not None:
        return f"{text}about {_audits(found, budget.audits_missing)} are missing to certify a policy that meets it"
    if budget.lowest_ms > budget.budget_ms:
        text += f"the cheapest policy under test costs {budget.lowest_ms:.3g} ms; "
    return text + "no policy under test can be certified to meet it: allow a higher --max-risk or --budget-ms"


def _accuracy(accuracy: "Accuracy") -> str:
    return (
        f"{percent(accuracy.observed or 0)} right, full depth {percent(accuracy.full_depth or 0)}, on the newest "
        f"audits with a label ({accuracy.samples:,})"
    )


def _bolder(found: "Explanation") -> str:
    bolder = found.bolder
    if found.held_back_by is not None:
        option = found.held_back_by.replace("_", "-")
        return f"another policy is certified; the bound --{option} holds it back (`edgeexit calibrator bounds`)"
    if found.bounds.frozen:
        return "none: the policy is frozen until an alarm (`edgeexit calibrator bounds`)"
    if found.budget is not None and found.budget.is_met:
        return "none is looked for, because the budget is met; a clearly safer policy within it is put in force"
    if bolder is None:
        return (
            "no policy under test is clearly cheaper and likely to be certified; others are put to the test after "
            f"{_audits(found, found.next_path_in)}"
        )
    if not bolder.audits_missing:
        return f"a policy that costs {percent(bolder.cost)} is certified and follows at one of the next checks"
    return (
        f"the next policy costs {percent(bolder.cost)}; about {_audits(found, bolder.audits_missing)} are missing to "
        "certify it"
    )


def _alarm(found: "Explanation") -> str:
    if found.alarm_raised:
        return "raised by the newest audits; the calibrator steps back at its next check, if it runs"
    if all(threshold is None for threshold in found.policy.thresholds):
        return f"none: at full depth, no {_losses(found)}"
    condition = f"{percent(found.raised_risk)} of the {_losses(found)}"
    if found.alarm_within is None:
        return f"not within a million audits if {condition}"
    return f"within {_audits(found, found.alarm_within)} if {condition}, with probability {percent(1 - found.delta)}"


def _raised_audits(found: "Explanation") -> list[tuple[str, str]]:
    """Return the line about a raised audit fraction; nothing if each device audits its own fraction."""
    rule, end_in = found.policy.audit, found.raised_audits_end_in
    if rule is None or end_in is None:
        return []
    until = f"for {_audits(found, end_in)}" if end_in else "until the next check"
    wanted = f"{percent(rule.fraction)} of the samples, at most the max_audit_fraction of each device"
    return [("audits", f"raised since the alarm: {wanted}, {until}")]


def _bounds(found: "Explanation") -> list[tuple[str, str]]:
    """Return the line of the bounds that a user has set, if there are any."""
    bounds = found.bounds
    texts = [
        "frozen until an alarm" if bounds.frozen else "",
        f"at least {percent(bounds.min_final_exits)} of the samples reach the final exit"
        if bounds.min_final_exits
        else "",
        "" if bounds.max_changes_per_day is None else f"at most {bounds.max_changes_per_day} changes a day",
        "" if bounds.min_gain is None else f"a change saves at least {percent(bounds.min_gain)} of the cost",
    ]
    stated = ", ".join(filter(None, texts))
    return [("bounds", stated)] if stated else []


def _devices(found: "Explanation") -> list[tuple[str, str]]:
    """Return the lines of the devices that are set aside or far from the cohort."""
    lines: list[tuple[str, str]] = []
    for device in found.devices:
        text = f"{device.name} is far from the others, and counts"
        if device.set_aside_at is not None:
            text = f"{device.name} is set aside since {device.set_aside_at:{_TIME}} by {device.set_aside_by}"
        if device.comparison is not None:
            own, others = (percent(device.comparison[name]) for name in ("loss", "others"))
            text += f": the loss of its {device.comparison['audits']:,.0f} audits is {own}, that of the others {others}"
        lines.append(("" if lines else "devices", text))
    return lines


def _change(policy: "PolicyView") -> str:
    return f"revision {policy.revision}, {policy.created_at:{_TIME}}, by {policy.created_by}: {policy.reason}"


def _losses(found: "Explanation") -> str:
    """Return what is counted, and what those with a loss do."""
    return f"{'predictions' if found.unit == 'samples' else found.unit} {LOSS_TEXTS[found.loss]}"


def _labelled(found: "Explanation") -> str:
    """Return what the audits of a cohort must have to count."""
    return " with a label" if found.loss == "regret" else ""


def _audits(found: "Explanation", count: int) -> str:
    """Return a number of audits, with the time in which they arrive at the recent rate."""
    hours = found.hours(count)
    text = f"{count:,} audit{'' if count == 1 else 's'}{_labelled(found)}"
    return text if hours is None else f"{text} ({duration(hours)} at the recent rate)"


def duration(hours: float) -> str:
    """Return a duration with one unit, e.g. `40 s`, `3 min`, `5.2 h` or `12 days`."""
    seconds = ceil(3600 * hours)
    if seconds < _SECONDS_PER_MINUTE:
        return f"{seconds} s"
    if hours < 1:
        return f"{seconds / _SECONDS_PER_MINUTE:.0f} min"
    return f"{hours:.1f} h" if hours < 2 * _HOURS_PER_DAY else f"{hours / _HOURS_PER_DAY:,.0f} days"
