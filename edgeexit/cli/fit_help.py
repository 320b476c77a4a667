"""Help of `edgeexit fit`: the texts that name kinds of policies are generated from the registry."""

from typing import Any

from typer.core import TyperCommand

from edgeexit.cli.fit_goals import AUTO, EXAMPLE_WEIGHTS


class FitCommand(TyperCommand):
    """The command `fit`. It imports the registry only to show its help, so that `edgeexit --help` stays fast."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help, with all registered kinds of policies."""
        texts = option_texts()
        for parameter in self.params:
            if parameter.name in texts:
                parameter.help = texts[parameter.name]  # type: ignore[attr-defined] # all of these are options
        self.epilog = policy_list()
        super().format_help(ctx, formatter)


def option_texts() -> dict[str, str]:
    """Return the help of the options that depend on the kinds of policies."""
    from edgeexit.fitting import FITTING_KINDS

    weights = [f"{name}: {', '.join(kind.weights)}" for name, kind in FITTING_KINDS.items() if kind.weights]
    rules = [f"{name}: {', '.join(kind.rules)}" for name, kind in FITTING_KINDS.items() if kind.rules]
    return {
        "policy": f"Kind of policy: {', '.join(FITTING_KINDS)}; or {AUTO}: compare all kinds and take the best.",
        "weights": f"Weights of the exits, for policies that have them: a name ({'; '.join(weights)}; the first is the "
        f"default), or one number per exit, e.g. {EXAMPLE_WEIGHTS}.",
        "rule": f"Use a rule of the policy instead of a goal; no temperatures are fitted ({'; '.join(rules)}).",
    }


def policy_list() -> str:
    """Return Markdown lists of the kinds with their scores, and of their rules."""
    from edgeexit.fitting import FITTING_KINDS

    kinds = [f"- {name}: {kind.summary}" for name, kind in FITTING_KINDS.items()]
    rules = [
        f"- {name}, {rule}: {details.summary}"
        for name, kind in FITTING_KINDS.items()
        for rule, details in kind.rules.items()
    ]
    headings = ("Policies and the score that each compares with its thresholds:", "Rules of policies (`--rule`):")
    return "\n".join([headings[0], "", *kinds, "", headings[1], "", *rules])
