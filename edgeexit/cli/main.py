"""The entry point: registers every command and turns errors into one line and exit code 2."""

import signal
import sys
from typing import Annotated, Any

import typer

from edgeexit import __version__
from edgeexit.cli.agent import agent_command
from edgeexit.cli.calibrator import calibrator_app
from edgeexit.cli.compile import compile_command
from edgeexit.cli.deploy import deploy_app
from edgeexit.cli.engines import engines_app
from edgeexit.cli.evaluate import evaluate_command
from edgeexit.cli.fit import fit_command
from edgeexit.cli.inspect import inspect_command
from edgeexit.cli.keys import keygen_command, sign_command
from edgeexit.cli.profile import profile_command
from edgeexit.cli.quickstart import quickstart_command
from edgeexit.cli.run import run_command
from edgeexit.cli.targets import targets_command
from edgeexit.console import console, notes, print_error
from edgeexit.errors import EdgeExitError

_BAD_INPUT = 2
_INTERRUPTED = 130

_CommandLineError: Any = typer.BadParameter.__mro__[2]
"""click's ClickException, which typer brings along under a name that depends on its version."""

app = typer.Typer(
    name="edgeexit",
    epilog="Any command takes --debug: show the traceback of an error instead of one line.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        console.print(f"edgeexit {__version__}")
        raise typer.Exit


@app.callback(no_args_is_help=True)
def _options(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Compile, run, profile and recalibrate early-exit networks on edge devices."""


app.command("quickstart")(quickstart_command)
app.command("compile")(compile_command)
app.command("inspect")(inspect_command)
app.add_typer(engines_app, name="engines")
app.command("fit")(fit_command)
app.command("evaluate")(evaluate_command)
app.command("run")(run_command)
app.command("profile")(profile_command)
app.command("agent")(agent_command)
app.add_typer(deploy_app, name="deploy")
app.add_typer(calibrator_app, name="calibrator")
app.command("targets")(targets_command)
app.command("keygen")(keygen_command)
app.command("sign")(sign_command)


def main() -> None:
    """Run the command line; exit code 2 for bad input, 130 for Ctrl-C."""
    debug = "--debug" in sys.argv
    # A terminated command cleans up as an interrupted one does; those that serve set handlers of their own.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        code = app(args=arguments, prog_name="edgeexit", standalone_mode=False)
    except _CommandLineError as error:
        if type(error).__name__ != "NoArgsIsHelpError":  # that one has printed the help
            context = getattr(error, "ctx", None)
            command = "edgeexit" if context is None else context.command_path
            print_error(f"{error.format_message().rstrip('.')}; see `{command} --help`")
        sys.exit(_BAD_INPUT)
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
    except OSError as error:
        if debug:
            raise
        where = f"'{error.filename}': " if error.filename else ""
        print_error(f"{where}{error.strerror or error}")
        sys.exit(_BAD_INPUT)
    if code == _INTERRUPTED:
        notes.print("interrupted")
    sys.exit(code if isinstance(code, int) else 0)
