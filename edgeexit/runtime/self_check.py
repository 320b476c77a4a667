"""Checks that this machine reproduces the logits of a bundle's golden samples."""

from edgeexit.backends.golden_check import ExitCheck, check_exit
from edgeexit.bundle import Bundle, GoldenSamples
from edgeexit.errors import BundleError, EngineError
from edgeexit.runtime.runner import Runner


def self_check(runner: Runner, bundle: Bundle, golden: GoldenSamples) -> tuple[ExitCheck, ...]:
    """Run the golden samples to full depth and compare the logits of every exit. Return the error of each exit.

    Args:
        runner: an opened runner of the bundle.
        bundle: the bundle of the golden samples; its precision selects the tolerance, see `check_exit`.
        golden: the bundle's golden samples.

    Raises BundleError, which names the exit and its error, if an error exceeds the tolerance of the precision.

    """
    outputs = runner.infer_every_exit(golden.inputs).outputs
    try:
        return tuple(
            check_exit(name, golden.exits[name], outputs[name], bundle.manifest.precision)
            for name in bundle.manifest.exits
        )
    except KeyError as error:
        raise BundleError(f"bundle '{bundle.path}' has no golden logits for exit {error}; compile it again") from error
    except EngineError as error:
        raise BundleError(
            f"bundle '{bundle.path}' gives wrong logits on this machine ({runner.runtime}): {error}; the agent does "
            "not serve it; compile it again, or use another version of the runtime"
        ) from error
