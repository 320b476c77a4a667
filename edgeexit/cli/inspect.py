"""`edgeexit inspect`: what is in a bundle."""

from pathlib import Path
from typing import Annotated

import typer

from edgeexit.console import console, milliseconds, next_step, print_json, print_table, printable, share


def inspect_command(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    trust: Annotated[
        list[Path] | None, typer.Option(help="Public key; the bundle must be signed by one of those given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Verify a bundle and show its stages, what they carry, the proof, the policy and the profile.

    Example: `edgeexit inspect quickstart/bundle --json`
    """
    from edgeexit.bundle import Bundle
    from edgeexit.signing import load_public_key

    opened = Bundle.open(bundle, trusted_keys=[load_public_key(path) for path in trust or ()])
    manifest, policy, profile = opened.manifest, opened.policy(), opened.profile()
    if as_json:
        print_json(
            {
                "digest": opened.digest,
                "model": manifest.model,
                "task": manifest.task,
                "target": manifest.target,
                "precision": manifest.precision,
                "opset": manifest.opset,
                "classes": manifest.classes,
                "labels": manifest.labels,
                "inputs": manifest.inputs,
                "exits": manifest.exits,
                "stages": manifest.stages,
                "carry": [
                    {"stage": stage.name, "tensor": tensor.name, "bytes_per_sample": tensor.bytes_per_sample}
                    for stage in manifest.stages
                    for tensor in stage.carry_out
                ],
                "proof": manifest.proof,
                "tools": manifest.tools,
                "policy": policy,
                "profile": profile,
            }
        )
        return
    latencies = [None] * len(manifest.stages) if profile is None else [s.latency.p50_ms for s in profile.stages]
    console.print(
        f"[bold]{printable(manifest.model)}[/]  {manifest.task}, {manifest.classes} classes, {manifest.precision}, "
        f"for {printable(manifest.target)}\ndigest {opened.digest}"
    )
    print_table(
        "Stages",
        ("stage", "exit", "reads", "carries on", "bytes/sample", "MACs", "p50", "max error"),
        [
            (
                stage.name,
                stage.exit.name,
                ", ".join((*stage.inputs, *stage.carry_in)),
                ", ".join(tensor.name for tensor in stage.carry_out) or "-",
                _carry_bytes([tensor.bytes_per_sample for tensor in stage.carry_out]),
                f"{stage.macs:,}",
                milliseconds(latency),
                f"{manifest.proof.max_absolute_error[stage.exit.name]:.1e}",
            )
            for stage, latency in zip(manifest.stages, latencies, strict=True)
        ],
    )
    proof = manifest.proof
    console.print(
        f"proof: composed stages equal the whole model on {proof.samples} {proof.source} samples "
        f"({printable(proof.runtime)}; tolerance {proof.absolute_tolerance:g} + {proof.relative_tolerance:g} relative)"
    )
    if policy is None:
        next_step(f"edgeexit fit {bundle} --data HELDOUT.npz --policy beem")
        return
    console.print(printable(f"policy: {policy.policy.kind}, thresholds {list(policy.policy.thresholds)}"))
    if policy.certificate is not None:
        certificate = policy.certificate
        console.print(
            f"certificate: disagreement with the final exit at most {share(certificate.risk)} with probability "
            f"{1 - certificate.delta:.0%}, from {certificate.samples} samples"
        )
    next_step(f"edgeexit run {bundle} --data X.npz --out Y.npz")


def _carry_bytes(sizes: list[int | None]) -> str:
    if not sizes:
        return "-"
    known = sum(size for size in sizes if size is not None)
    return f"{known:,}" + ("+" if None in sizes else "")
