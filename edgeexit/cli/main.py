"""The entry point: registers every command and turns errors into one line and exit code 2."""

import sys

import typer

from edgeexit.cli.output import notes, print_error
from edgeexit.errors import EdgeExitError

app = typer.Typer(
    name="edgeexit",
    help="Compile, run, profile and recalibrate early-exit networks on edge devices.",
    epilog="Any command takes --debug: show the traceback of an error instead of one line.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

_BAD_INPUT = 2
_INTERRUPTED = 130


def main() -> None:
    """Run the command line; exit code 2 for bad input, 130 for Ctrl-C."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(args=arguments)
    except EdgeExitError as error:
        if debug:
            raise
        print_error(str(error))
        sys.exit(_BAD_INPUT)
    except ModuleNotFoundError as error:
        if debug:
            raise
        print_error(f"this command needs the package '{error.name}'; see the extras in README.md")
        sys.exit(_BAD_INPUT)
    except KeyboardInterrupt:
        notes.print("interrupted")
        sys.exit(_INTERRUPTED)
