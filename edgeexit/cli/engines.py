"""`edgeexit engines`: build TensorRT plans from a bundle's stages; list and clear the cached plans."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeexit.console import console, next_step, notes, print_json, print_table, printable, show_progress, warn
from edgeexit.errors import EngineError
from edgeexit.formatting import percent

if TYPE_CHECKING:
    from edgeexit.backends.traits import BackendTraits
    from edgeexit.bundle import Bundle

engines_app = typer.Typer(
    name="engines",
    help="Build TensorRT plans from a bundle's stages; list and clear the cached plans.",
    no_args_is_help=True,
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
CacheOption = Annotated[Path | None, typer.Option(help="Folder of the plans; default: ~/.cache/edgeexit/engines.")]

_MIB = 1 << 20


@engines_app.command("build")
def build_command(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    for_: Annotated[
        str | None, typer.Option("--for", help="GPU to build for, e.g. SM86 or 8.6; default: the GPU of this machine.")
    ] = None,
    batch: Annotated[
        str | None, typer.Option(help="MIN,OPT,MAX batch size; default: that of the bundle's build config.")
    ] = None,
    dimension: Annotated[
        list[str] | None, typer.Option(help="NAME=MIN,OPT,MAX size of a symbolic dimension. Repeatable.")
    ] = None,
    workspace_mb: Annotated[
        int | None, typer.Option(min=1, help="Max scratch memory in MB; default: that of the bundle's build config.")
    ] = None,
    dla: Annotated[
        int | None,
        typer.Option(min=0, help="DLA core that runs the plans; default: that of the bundle's build config."),
    ] = None,
    cache: CacheOption = None,
    force: Annotated[bool, typer.Option(help="Build every stage again, even if its plan is cached.")] = False,
    trust: Annotated[
        list[Path] | None,
        typer.Option(help="Public key: refuse the bundle unless one of the given keys has signed it. Repeatable."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Build a plan for every stage, verify it on the golden samples if its GPU is in this machine, and cache it.

    A cached plan is built again only if its graph, weights, build config, TensorRT version, GPU, driver or
    power mode has changed. If the bundle's target runs on another backend that builds engines, that backend builds
    those that are missing; the options that describe TensorRT plans are then an error.

    Example: `edgeexit engines build quickstart/bundle --for SM86`
    """
    from edgeexit.backends.base import load_engine_builder
    from edgeexit.backends.dimensions import parse_dimensions, parse_range
    from edgeexit.backends.tensorrt import engines as tensorrt_engines
    from edgeexit.backends.tensorrt.engines import (
        PlanCache,
        build_engines,
        choose_toolchain,
        default_folder,
        read_sm,
        resolve_build_config,
    )
    from edgeexit.bundle import Bundle
    from edgeexit.signing import load_public_key
    from edgeexit.targets import load_target

    opened = Bundle.open(bundle, trusted_keys=[load_public_key(path) for path in trust or ()])
    target = load_target(opened.manifest.target)
    if target.backend.builds_engines and load_engine_builder(target.backend) is not tensorrt_engines:
        tensorrt_only = {
            "--for": for_, "--batch": batch, "--dimension": dimension, "--workspace-mb": workspace_mb, "--dla": dla,
            "--cache": cache, "--force": force or None,
        }  # fmt: skip
        _build_missing(
            opened,
            target.backend,
            [name for name, value in tensorrt_only.items() if value is not None],
            as_json=as_json,
        )
        return
    build_config = resolve_build_config(
        opened.manifest,
        target.nvidia,
        batch=None if batch is None else parse_range("--batch", batch),
        dimensions=parse_dimensions(dimension or ()),
        workspace_mb=workspace_mb,
        dla_core=dla,
    )
    toolchain = choose_toolchain(None if for_ is None else read_sm(for_), first=target.runtime)
    library = toolchain.library
    library.messages.echo = "--debug" in sys.argv
    folder = cache or default_folder()
    stages = [stage.name for stage in opened.manifest.stages]
    with show_progress(f"building for {toolchain.hardware.sm}", steps=stages) as progress:
        report = build_engines(opened, toolchain, build_config, PlanCache(folder), force=force, progress=progress)
    if as_json:
        print_json(report)
        return
    print_table(
        f"{opened.manifest.model} for {report.hardware.device or report.hardware.sm}, {library.description}",
        ("stage", "plan", "build", "", "max error", "top-1 agrees"),
        [
            (
                engine.stage,
                f"{engine.bytes / _MIB:.1f} MiB",
                f"{engine.build_seconds:.2f} s",
                "cached" if engine.cached else "built",
                "not verified" if engine.check is None else f"{engine.check.max_error:.2g}",
                "not verified" if engine.check is None else percent(engine.check.agreement),
            )
            for engine in report.stages
        ],
    )
    if report.not_verified is not None:
        warn(f"not verified: {report.not_verified}")
    for engine in report.stages:
        if engine.gpu_layers:
            warn(
                f"{engine.stage}: {len(engine.gpu_layers)} layers run on the GPU, not on the DLA: "
                f"{engine.gpu_layers[0]} …"
            )
    notes.print(f"plans are in {printable(folder)}", soft_wrap=True)
    next_step("edgeexit engines list" if cache is None else f"edgeexit engines list --cache {cache}")


def _build_missing(bundle: "Bundle", backend: "BackendTraits", tensorrt_only: list[str], *, as_json: bool) -> None:
    """Let a backend other than TensorRT build the engines that are missing."""
    from edgeexit.backends.base import load_engine_builder

    if tensorrt_only:
        raise EngineError(
            f"{tensorrt_only[0]} is an option for TensorRT plans, but target '{bundle.manifest.target}' runs on "
            f"{backend.title}; leave it out"
        )
    stages = [stage.name for stage in bundle.manifest.stages]
    with show_progress(f"building for {backend.title}", steps=stages) as progress:
        built = load_engine_builder(backend).build_missing_engines(bundle, progress=progress)
    if as_json:
        print_json({"built": built})
        return
    console.print(f"{printable(backend.title)}: {'engines built' if built else 'no engine is missing'}")


@engines_app.command("list")
def list_command(cache: CacheOption = None, as_json: JsonOption = False) -> None:
    """List the cached plans.

    Example: `edgeexit engines list`
    """
    from edgeexit.backends.tensorrt.engines import PlanCache, default_folder

    folder = cache or default_folder()
    records = PlanCache(folder).records()
    if as_json:
        print_json({str(path): record for path, record in records.items()})
        return
    print_table(
        f"{len(records)} plans in {folder}",
        ("model", "stage", "precision", "batch", "GPU", "library", "plan", "verified"),
        [
            (
                record.model,
                record.stage,
                record.precision,
                ", ".join(map(str, record.batch)),
                record.key.hardware.device or record.key.hardware.sm,
                f"{record.key.library} {record.key.version}",
                f"{record.bytes / _MIB:.1f} MiB",
                "no" if record.check is None else "yes",
            )
            for record in sorted(records.values(), key=lambda record: (record.model, record.precision, record.stage))
        ],
    )
    where = "" if cache is None else f" --cache {cache}"
    next_step(f"edgeexit engines {f'clear{where}, to free the space' if records else f'build BUNDLE{where}'}")


@engines_app.command("clear")
def clear_command(cache: CacheOption = None) -> None:
    """Delete all cached plans and timing caches.

    Example: `edgeexit engines clear`
    """
    from edgeexit.backends.tensorrt.engines import PlanCache, default_folder

    folder = cache or default_folder()
    files, size = PlanCache(folder).clear()
    console.print(f"deleted {files} files, {size / _MIB:.1f} MiB, from {printable(folder)}")
    next_step("edgeexit engines build BUNDLE" if cache is None else f"edgeexit engines build BUNDLE --cache {cache}")
