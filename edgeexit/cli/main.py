"""The entry point of the command line: registers every command; prints an error as one line and exits with 2."""

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
from edgeexit.cli.fit_help import FitCommand
from edgeexit.cli.fleet import fleet_app
from edgeexit.cli.inspect import inspect_command
from edgeexit.cli.keys import keygen_command, keys_app, sign_command
from edgeexit.cli.profile import profile_command
from edgeexit.cli.quickstart import quickstart_command
from edgeexit.cli.run import run_command
from edgeexit.cli.targets import targets_command
from edgeexit.console import console, notes, print_error
from edgeexit.errors import EdgeExitError

_USER_ERROR = 2
_INTERRUPTED = 130

_REPORTED = (EdgeExitError, ModuleNotFoundError, OSError, MemoryError)
"""Errors that are printed as one line unless `--debug` is given."""
_CommandLineError: Any = typer.BadParameter.__mro__[2]
"""click.ClickException, without an import: the module that contains it depends on the version of typer."""

app = typer.Typer(
    name="edgeexit",
    epilog="Every command accepts --debug, which prints the traceback of an error.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


def _print_version(requested: bool) -> None:
    if requested:
        console.print(f"edgeexit {__version__}")
        raise typer.Exit


@app.callback(no_args_is_help=True)
def _options(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Deploy multi-exit (early-exit) neural networks to edge devices: compile, fit, profile, run, recalibrate."""


app.command("quickstart")(quickstart_command)
app.command("compile")(compile_command)
app.command("inspect")(inspect_command)
app.add_typer(engines_app, name="engines")
app.command("fit", cls=FitCommand)(fit_command)
app.command("evaluate")(evaluate_command)
app.command("run")(run_command)
app.command("profile")(profile_command)
app.command("agent")(agent_command)
app.add_typer(deploy_app, name="deploy")
app.add_typer(calibrator_app, name="calibrator")
app.add_typer(fleet_app, name="fleet")
app.command("targets")(targets_command)
app.add_typer(keys_app, name="keys")
app.command("keygen")(keygen_command)
app.command("sign")(sign_command)


def main() -> None:
    """Run the command line. The exit code is 2 for an error of the user, and 130 after Ctrl-C."""
    debug = "--debug" in sys.argv
    # SIGTERM stops a command like Ctrl-C, with clean-up; commands that run a service set other handlers.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        code = app(args=arguments, prog_name="edgeexit", standalone_mode=False)
    except _CommandLineError as error:
        if type(error).__name__ != "NoArgsIsHelpError":  # typer has already printed the help
            context = getattr(error, "ctx", None)
            command = "edgeexit" if context is None else context.command_path
            message = error.format_message().replace("Value error, ", "").rstrip(".")
            print_error(f"{message}; see `{command} --help`")
        sys.exit(_USER_ERROR)
    except _REPORTED as error:
        if debug:
            raise
        print_error(_one_line(error))
        sys.exit(_USER_ERROR)
    if code == _INTERRUPTED:
        notes.print("interrupted")
    sys.exit(code if isinstance(code, int) else 0)


def _one_line(error: Exception) -> str:
    """Return what the user reads instead of a traceback."""
    match error:
        case ModuleNotFoundError():
            return f"this command needs the package '{error.name}'; README.md names the extra to install"
        case OSError():
            where = f"'{error.filename}': " if error.filename else ""
            return f"{where}{error.strerror or error}"
        case MemoryError():
            return f"this command needs more memory than is free ({str(error) or 'no details'}); give fewer samples"
        case _:
            return str(error)
