"""The texts of a fit report that depend on the goal, the certificate and the dataset."""

from edgeexit.fitting import Budget, Fit, Goal, KindRule, MaxDrop, MaxRisk, ReadoutDataset
from edgeexit.formatting import percent
from edgeexit.report.cost_scale import CostScale


def quality_name(dataset: ReadoutDataset) -> str:
    """Return the name of 1 - loss on this dataset."""
    if dataset.maps is None:
        return "accuracy" if dataset.has_labels else "agreement with the final exit"
    return "pixel accuracy" if dataset.has_labels else "pixel agreement with the final exit"


def describe_oracle(dataset: ReadoutDataset) -> str:
    """Return the condition that the oracle's exit meets, to follow "the first exit"."""
    if dataset.maps is not None:
        return "with the smallest loss"
    return "that is correct" if dataset.has_labels else "that predicts the same as the final one"


def describe_samples(dataset: ReadoutDataset) -> str:
    """Return the number of samples and classes, with or without labels."""
    labels = "with labels" if dataset.has_labels else "without labels"
    classes = "" if dataset.classes is None or dataset.maps is not None else f" of {dataset.classes} classes"
    return f"{len(dataset):,} samples{classes} {labels}"


def describe_goal(goal: Goal | KindRule, scale: CostScale, quality: str) -> str:
    """Return the goal of a fit, as a noun phrase."""
    match goal:
        case Budget(cost=cost):
            speedup = scale.speedup(cost)
            return f"the best {quality} at a mean cost of at most {scale.text(cost)}, a speed-up of {speedup}"
        case MaxDrop(drop=drop):
            points = "point" if drop == 0.01 else "points"  # noqa: PLR2004 - one percentage point
            return f"the lowest cost with {quality} at most {100 * drop:g} {points} below the final exit's"
        case MaxRisk(risk=risk, delta=delta):
            return (
                f"the lowest cost at which at most {100 * risk:.3g} % of the predictions differ from the final exit's, "
                f"with {100 * (1 - delta):.3g} % confidence"
            )
        case KindRule(kind=kind, rule=rule):
            return f"the {rule} rule of {kind}, exit by exit"


def describe_certificate(fit: Fit, scale: CostScale) -> str:
    """Return the certificate of a fit as text, or that there is none."""
    certificate, expected = fit.certificate, fit.expected
    if certificate is None:
        return (
            f"The policy is not certified: these figures use the {expected.samples:,} samples that chose the "
            "thresholds, so they are slightly optimistic. For a certificate that holds on new inputs, fit with "
            "--max-risk."
        )
    return (
        f"The policy is certified on {certificate.samples:,} samples that did not choose it: with "
        f"{100 * (1 - certificate.delta):.3g} % confidence, at most {percent(certificate.risk)} of the predictions on "
        f"similar inputs differ from the final exit's. On these samples, {percent(certificate.observed)} "
        f"differ (upper bound {percent(certificate.upper_bound)}), and the mean cost is "
        f"{scale.text(expected.mean_cost)}."
    )
