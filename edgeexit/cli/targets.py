"""`edgeexit targets`: the device kinds that a bundle can be compiled for."""

from typing import Annotated

import typer

from edgeexit.console import console, next_step, print_json, print_table, printable


def targets_command(
    name: Annotated[str | None, typer.Argument(help="Explain this one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """List the targets, or explain one. Your own `./targets/NAME.toml` goes before a shipped one.

    Example: `edgeexit targets x86-cpu`
    """
    from edgeexit.targets import list_targets, load_target

    if name is None:
        targets = {known: load_target(known) for known in sorted(list_targets())}
        if as_json:
            print_json(targets)
            return
        rows = [
            (known, target.runtime, ", ".join(target.precisions), target.description)
            for known, target in targets.items()
        ]
        print_table("Targets", ("target", "runtime", "precisions", "description"), rows)
        next_step("edgeexit targets NAME, or edgeexit compile MODEL --target NAME")
        return
    target = load_target(name)
    if as_json:
        print_json(target)
        return
    path = list_targets()[name]
    console.print(f"[bold]{printable(name)}[/]  {printable(target.description)}")
    console.print(f"architecture  {target.architecture}")
    console.print(f"runtime       {target.runtime}, {target.session.threads or 'one a core'} thread(s) an operator")
    console.print(f"precisions    {', '.join(target.precisions)} (the first is the default)")
    console.print(f"opset         {target.opset}")
    console.print(f"file          {printable(path)}")
    next_step(f"edgeexit compile MODEL --target {name} --out BUNDLE")
