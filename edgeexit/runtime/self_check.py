"""Whether this machine answers a bundle's golden samples as the bundle says it should."""

from edgeexit.backends.tensorrt.engines.verify import ExitCheck, check_exit
from edgeexit.bundle import Bundle, GoldenSamples
from edgeexit.errors import BundleError, EngineError
from edgeexit.runtime.runner import Runner


def self_check(runner: Runner, bundle: Bundle, golden: GoldenSamples) -> tuple[ExitCheck, ...]:
    """Run the golden samples to full depth and compare every exit; return how far each is off.

    Args:
        runner: an open one of the bundle.
        bundle: names its precision, and with that the tolerances of `engines.verify`.
        golden: the bundle's golden samples.

    Raises BundleError that names the exit and the error where an answer is not what the precision explains.

    """
    found = runner.infer_every_exit(golden.inputs).outputs
    try:
        return tuple(
            check_exit(name, golden.exits[name], found[name], bundle.manifest.precision)
            for name in bundle.manifest.exits
        )
    except KeyError as error:
        raise BundleError(f"bundle '{bundle.path}' has no golden answers for exit {error}; compile it again") from error
    except EngineError as error:
        raise BundleError(
            f"bundle '{bundle.path}' does not answer here as it should ({runner.runtime}): {error}; it is not served"
        ) from error
