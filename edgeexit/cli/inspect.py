"""`edgeexit inspect`: verify a bundle and print its content."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeexit.cli.advice import how_to_get_a_policy
from edgeexit.console import console, next_step, notes, print_json, print_table, printable, warn
from edgeexit.formatting import milliseconds, percent, threshold_text

if TYPE_CHECKING:
    from edgeexit.bundle import Bundle
    from edgeexit.bundle.manifest import BuildConfig, Fidelity, Manifest
    from edgeexit.latency import LatencyProfile
    from edgeexit.policies import PolicyDocument

_NAMES_SHOWN = 3


def inspect_command(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    trust: Annotated[
        list[Path] | None,
        typer.Option(help="Public key; the bundle must be signed by one of the keys. May be repeated."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the stage graph to this .svg or .html file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Verify a bundle; show its stages, the live tensors between them, its proof, policy and latency profile.

    Example: `edgeexit inspect quickstart/bundle --plot stages.svg`
    """
    from edgeexit.bundle import Bundle
    from edgeexit.policies.unreachable import unreachable_exits_warning
    from edgeexit.signing import load_public_key

    draw = None if plot is None else _drawing_function(plot)
    opened = Bundle.open(bundle, trusted_keys=[load_public_key(path) for path in trust or ()])
    manifest, policy, profile = opened.manifest, opened.policy(), opened.profile()
    if plot is not None and draw is not None:
        from edgeexit.files import write_atomic

        write_atomic(plot, draw(manifest, profile).encode())
    if as_json:
        print_json(_content(opened, policy, profile))
        return
    fp32_nodes = f" ({', '.join(manifest.keep_fp32)} kept in fp32)" if manifest.keep_fp32 else ""
    facts = f"{manifest.task}, {manifest.classes} classes, {manifest.precision}{fp32_nodes}, for {manifest.target}"
    signature = "\nsignature: valid, by a trusted key" if trust else ""
    console.print(f"[bold]{printable(manifest.model)}[/]  {printable(facts)}\ndigest {opened.digest}{signature}")
    _print_stages(manifest, profile)
    _print_live_tensors(manifest)
    if manifest.fidelity is not None:
        _print_fidelity(manifest.fidelity, manifest)
    if manifest.build_config is not None:
        console.print(printable(_build_config_text(manifest.build_config)), soft_wrap=True)
    _print_proof(manifest)
    if policy is not None:
        _print_policy(policy)
        if (warning := unreachable_exits_warning(policy.policy, manifest.exits)) is not None:
            warn(warning)
    _warn_about_profile(opened, profile, signature_required=bool(trust))
    if plot is not None:
        notes.print(f"stage graph: {printable(plot)}", soft_wrap=True)
    if policy is None:
        next_step(how_to_get_a_policy(bundle))
    else:
        next_step(f"edgeexit run {bundle} --data X.npz --out Y.npz")


def _warn_about_profile(bundle: "Bundle", profile: "LatencyProfile | None", *, signature_required: bool) -> None:
    if profile is not None and profile.invalid:
        warn(f"the profile is not used for the costs of the exits: {'; '.join(profile.invalid)}")
    if signature_required and bundle.has_unsigned_profile:
        warn(f"profile.json is not signed, and neither are its costs; run `edgeexit sign {bundle.path} --key KEY`")


def _drawing_function(plot: Path) -> "Callable[[Manifest, LatencyProfile | None], str]":
    """Return the function that draws a file with this suffix. Raises DataError for any other suffix."""
    from edgeexit.errors import DataError
    from edgeexit.stage_graph import draw_page, draw_svg

    functions = {".svg": draw_svg, ".html": draw_page}
    if plot.suffix.lower() not in functions:
        raise DataError(
            f"--plot '{plot}': the stage graph is drawn as .svg or .html; give a file name with one of these suffixes"
        )
    return functions[plot.suffix.lower()]


def _content(opened: "Bundle", policy: "PolicyDocument | None", profile: "LatencyProfile | None") -> dict[str, Any]:
    manifest = opened.manifest
    return {
        "digest": opened.digest,
        "model": manifest.model,
        "task": manifest.task,
        "target": manifest.target,
        "precision": manifest.precision,
        "keep_fp32": manifest.keep_fp32,
        "opset": manifest.opset,
        "classes": manifest.classes,
        "class_names": manifest.class_names,
        "inputs": manifest.inputs,
        "masks": manifest.masks,
        "exits": manifest.exits,
        "companions": manifest.companions,
        "stages": manifest.stages,
        "carry": [
            {"stage": stage.name, "tensor": tensor.name, "bytes_per_sample": tensor.bytes_per_sample}
            for stage in manifest.stages
            for tensor in stage.carry_out
        ],
        "live_tensors": [
            {
                "after": stage.name,
                "tensors": [tensor.name for tensor in manifest.live_after(index)],
                "bytes_per_sample": _total([tensor.bytes_per_sample for tensor in manifest.live_after(index)]),
            }
            for index, stage in enumerate(manifest.stages[:-1])
        ],
        "proof": manifest.proof,
        "fidelity": manifest.fidelity,
        "build_config": manifest.build_config,
        "tool_versions": manifest.tool_versions,
        "policy": policy,
        "profile": profile,
    }


def _print_stages(manifest: "Manifest", profile: "LatencyProfile | None") -> None:
    latencies = [None] * len(manifest.stages) if profile is None else [s.latency.p50_ms for s in profile.stages]
    macs = max(sum(stage.macs for stage in manifest.stages), 1)
    print_table(
        "Stages",
        ("stage", "exit", "reads", "MACs", "MACs %", "p50", "max error"),
        [
            (
                stage.name,
                stage.exit.name,
                _names((*stage.inputs, *stage.carry_in)),
                f"{stage.macs:,}",
                percent(stage.macs / macs),
                milliseconds(latency),
                f"{manifest.proof.max_absolute_error[stage.exit.name]:.1e}",
            )
            for stage, latency in zip(manifest.stages, latencies, strict=True)
        ],
    )


def _print_live_tensors(manifest: "Manifest") -> None:
    """Print the live tensors after each stage; a size that depends on a symbolic dimension contains its name."""
    from edgeexit.stage_graph import bytes_per_sample_text

    print_table(
        "Live tensors of a sample that continues",
        ("after", "tensors", "bytes/sample"),
        [
            (stage.name, _names([tensor.name for tensor in live]), bytes_per_sample_text(live, exact=True))
            for stage, live in ((stage, manifest.live_after(index)) for index, stage in enumerate(manifest.stages[:-1]))
        ],
    )
    symbolic = sorted(
        {
            size
            for index in range(len(manifest.stages) - 1)
            for tensor in manifest.live_after(index)
            for size in tensor.shape[1:]
            if isinstance(size, str)
        }
    )
    if symbolic:
        console.print(printable(f"symbolic dimensions: {', '.join(symbolic)}"))
    if manifest.masks:
        console.print(printable(f"attention masks, which may contain minus infinity: {', '.join(manifest.masks)}"))


def _print_fidelity(fidelity: "Fidelity", manifest: "Manifest") -> None:
    print_table(
        f"{manifest.precision} against fp32, on {fidelity.samples:,} samples of the calibration data",
        ("exit", "agreement", "accuracy", "accuracy in fp32"),
        [
            (name, percent(exit_.agreement), _percent(exit_.accuracy), _percent(exit_.accuracy_fp32))
            for name, exit_ in ((name, fidelity.exits[name]) for name in manifest.exits)
        ],
    )


def _print_policy(document: "PolicyDocument") -> None:
    thresholds = ", ".join(map(threshold_text, document.policy.thresholds))
    console.print(printable(f"policy: {document.policy.kind}, thresholds {thresholds}"))
    if document.certificate is not None:
        certificate = document.certificate
        console.print(
            f"certificate: disagreement with the final exit at most {percent(certificate.risk)} with probability "
            f"{100 * (1 - certificate.delta):g} %, from {certificate.samples} samples"
        )


def _build_config_text(build_config: "BuildConfig") -> str:
    ranges = {"batch": build_config.batch, **build_config.dimensions}
    sizes = ", ".join(
        f"{dimension} {low} to {high} (optimal {optimal})" for dimension, (low, optimal, high) in ranges.items()
    )
    device = "the GPU" if build_config.dla_core is None else f"DLA core {build_config.dla_core}"
    return f"engines: {sizes}, on {device}, with at most {build_config.workspace_mb:,} MB of workspace"


def _print_proof(manifest: "Manifest") -> None:
    """Print the proof, and the companions with their type, shape and error."""
    proof = manifest.proof
    console.print(
        f"proof: the composed stages equal the full model on {proof.samples} {proof.source} samples "
        f"({printable(proof.runtime)}; tolerance {proof.absolute_tolerance:g} absolute + "
        f"{proof.relative_tolerance:g} relative)"
    )
    errors = proof.max_companion_error
    companions = [
        f"{name} {spec.dtype} [{', '.join(map(str, spec.shape))}]"
        + (f" (max error {errors[name]:.1e})" if name in errors else "")
        for name, spec in manifest.stages[0].companions.items()
    ]
    if companions:
        console.print(printable(f"companions of every exit: {', '.join(companions)}"), soft_wrap=True)


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN])
    return shown + (f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else "")


def _percent(value: float | None) -> str:
    return "-" if value is None else percent(value)


def _total(sizes: Sequence[int | None]) -> int | None:
    return None if None in sizes else sum(size or 0 for size in sizes)
