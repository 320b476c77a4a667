"""`edgeexit targets`: list the device kinds that a bundle can be compiled for, or describe one."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeexit.console import console, next_step, print_json, print_table, printable, warn

if TYPE_CHECKING:
    from edgeexit.targets import Nvidia, SessionConfig, Target

_LABEL_WIDTH = 14
_TEXT_WIDTH = 100
_NEEDED_PYTHON = (3, 10)

_TELEMETRY = {
    "none": "none",
    "jetson": "the board's clocks, power rails and temperatures, from Jetson Linux",
    "raspberry-pi": "clocks, temperature and throttling, from the firmware",
}


def targets_command(
    name: Annotated[str | None, typer.Argument(help="Describe this target.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """List the targets, or describe one. Your own `./targets/NAME.toml` overrides a shipped target.

    Example: `edgeexit targets jetson-orin-nano`
    """
    if name is None:
        _list_targets(as_json=as_json)
    else:
        _describe_target(name, as_json=as_json)


def _list_targets(*, as_json: bool) -> None:
    from edgeexit.errors import TargetError
    from edgeexit.targets import is_users_own, list_targets, load_target

    documents: dict[str, Any] = {}
    rows, errors = [], []
    for name, path in sorted(list_targets().items()):
        yours = is_users_own(path)
        shown = f"{name} (yours)" if yours else name
        try:
            target = load_target(name)
        except TargetError as error:
            errors.append(str(error))
            documents[name] = {"file": str(path), "yours": yours, "error": str(error)}
            rows.append((shown, "-", "-", "-", "-", "invalid; see the warning"))
            continue
        documents[name] = _as_document(name, target, path, yours=yours)
        memory = "any" if target.memory_mb is None else _size(target.memory_mb)
        rows.append((shown, target.runtime, target.architecture, target.precisions[0], memory, target.description))
    if as_json:
        print_json(documents)
        return
    print_table("Targets", ("target", "runtime", "architecture", "start with", "memory from", "description"), rows)
    for message in errors:
        warn(message)
    next_step("edgeexit targets NAME, or edgeexit compile MODEL --target NAME --out BUNDLE")


def _describe_target(name: str, *, as_json: bool) -> None:
    from edgeexit.targets import USER_FOLDER, is_users_own, list_targets, load_target

    target = load_target(name)
    path = list_targets()[name]
    yours = is_users_own(path)
    if as_json:
        print_json(_as_document(name, target, path, yours=yours))
        return
    console.print(f"[bold]{printable(name)}[/]  {printable(target.description)}")
    _print_line("runs on", f"{target.backend.summary} ({target.architecture})")
    first, *others = target.precisions
    _print_line("precision", f"start with {first}" + (f"; then measure {' and '.join(others)}" if others else ""))
    _print_line("opset", f"max {target.opset}")
    if target.backend.uses_session:
        _print_line("session", _session(target.session))
    if target.nvidia is not None:
        _print_nvidia(target.nvidia, builds_engines=target.backend.builds_engines)
    _print_line("telemetry", _TELEMETRY[target.telemetry])
    _print_line("python", _python(target.python))
    _print_line("memory", "any" if target.memory_mb is None else f"{_size(target.memory_mb)} on the smallest variant")
    if target.notes.strip():
        _print_line("notes", target.notes)
    own = USER_FOLDER / f"{name}.toml"
    hint = (
        "yours; it overrides any shipped target of this name"
        if yours
        else f"copy it to {own} to change it: your file overrides it"
    )
    _print_line("file", f"{path} ({hint})")
    next_step(f"edgeexit compile MODEL --target {name} --out BUNDLE")


def _print_nvidia(nvidia: "Nvidia", *, builds_engines: bool) -> None:
    tensorrt = ", ".join(f"{version} with JetPack {release}" for release, version in nvidia.jetpack.items())
    smallest, optimal, largest = nvidia.batch
    _print_line(
        "GPU",
        f"{nvidia.sm}; {nvidia.dla_cores or 'no'} DLA core{'' if nvidia.dla_cores == 1 else 's'}"
        + ("" if builds_engines else "; not used"),
    )
    if tensorrt:
        _print_line("TensorRT", tensorrt)
    if builds_engines:
        _print_line(
            "plans", f"batch sizes {smallest} to {largest}, optimal {optimal}; max workspace {nvidia.workspace_mb:,} MB"
        )


def _session(session: "SessionConfig") -> str:
    threads = (
        f"{session.threads} thread{'' if session.threads == 1 else 's'}" if session.threads else "one thread per core"
    )
    if session.spinning:
        return f"{threads} per operator; idle threads spin, which slows down the stage that runs"
    return f"{threads} per operator; idle threads sleep, because spinning would slow down the stage that runs"


def _python(version: str) -> str:
    if tuple(map(int, version.split("."))) >= _NEEDED_PYTHON:
        return f"{version} comes with the operating system"
    needed = ".".join(map(str, _NEEDED_PYTHON))
    return f"{version} comes with the operating system and is too old; install {needed} or newer"


def _as_document(name: str, target: "Target", path: Path, *, yours: bool) -> dict[str, Any]:
    from msgspec import to_builtins

    return {"name": name, "file": str(path), "yours": yours, **to_builtins(target)}


def _size(megabytes: int) -> str:
    return f"{megabytes // 1024} GB" if megabytes % 1024 == 0 else f"{megabytes} MB"


def _print_line(label: str, text: str) -> None:
    indent = " " * _LABEL_WIDTH
    wrapped = textwrap.wrap(" ".join(text.split()), _TEXT_WIDTH, break_long_words=False, break_on_hyphens=False)
    for number, line in enumerate(wrapped):
        console.print(f"{indent if number else label:<{_LABEL_WIDTH}}{printable(line)}", soft_wrap=True)
