"""`edgeexit profile`: measures the latency of a bundle on this machine, or compares two bundles."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeexit.cli.advice import how_to_get_a_policy
from edgeexit.cli.data_files import read_samples
from edgeexit.cli.pages import require_page
from edgeexit.cli.private_keys import key_for_signed
from edgeexit.cli.profile_summary import print_comparison, print_no_end_to_end, print_profile
from edgeexit.console import next_step, notes, print_json, printable, show_progress, warn

if TYPE_CHECKING:
    from edgeexit.bundle import Bundle
    from edgeexit.datasets import Dataset
    from edgeexit.latency import LatencyProfile

_DURATION_S = 3.0
_COMPARED = 2
_STORED_BATCH = 1
"""Only profiles of single samples give the costs of the exits, because the samples of a batch share stages."""


def profile_command(
    bundles: Annotated[
        list[Path] | None,
        typer.Argument(metavar="BUNDLE", help="Folder of the bundle; two folders, A and B, with --compare."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Samples with a realistic mix of exits (.npz); default: the golden samples.")
    ] = None,
    duration: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds of each phase, after its warm-up; default: 3.")
    ] = None,
    batch: Annotated[
        int, typer.Option(min=1, help="Samples per inference; only profiles with batch size 1 are stored.")
    ] = 1,
    plot: Annotated[
        Path | None, typer.Option(help="Write a page (.html, works offline) with charts of the profile.")
    ] = None,
    stored: Annotated[
        bool, typer.Option("--stored", help="Show the profile stored in the bundle, without measuring.")
    ] = False,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Measure two bundles, A and B, in alternation, and print the ratio B / A."),
    ] = False,
    key: Annotated[
        Path | None, typer.Option(help="Private key that signs the profile; needed if the stored one is signed.")
    ] = None,
    unsigned: Annotated[
        bool, typer.Option("--unsigned", help="Remove the signature of a signed profile instead of renewing it.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Measure cold load, first run, and steady state per stage and end to end. Store profile.json in the bundle.

    If the machine was throttled or busy during the measurement, or its speed drifted, the profile is stored as invalid,
    with the reasons, and no costs are taken from it.
    To draw the profile of a device on another machine, copy profile.json into the bundle there, and use `--stored
    --plot`.

    Example: `edgeexit profile quickstart/bundle --data quickstart/test.npz --duration 5 --plot profile.html`

    Example: `edgeexit profile --compare bundle-fp32 bundle-int8 --data test.npz`
    """
    from edgeexit.bundle import Bundle
    from edgeexit.errors import ConfigError

    named = bundles or []
    if compare:
        if len(named) != _COMPARED or plot is not None or stored or batch != 1 or key is not None or unsigned:
            raise ConfigError(
                "--compare takes two bundles, A and B, and only the options --data, --duration and --json; see "
                "`edgeexit profile --help`"
            )
        _compare(*named, data=data, duration=duration or _DURATION_S, as_json=as_json)
        return
    if len(named) != 1:
        raise ConfigError("give one bundle to profile, or two with --compare A B")
    draw = None if plot is None else _require_drawing(plot, named[0])
    stores = not stored and batch == _STORED_BATCH
    if (key is not None or unsigned) and not stores:
        raise ConfigError("--stored and --batch store no profile, so nothing is signed; remove --key and --unsigned")
    opened = Bundle.open(named[0])
    is_signed = stores and opened.has_signed_profile
    signing_key = key_for_signed(named[0], "profile", key, is_signed=is_signed, unsigned=unsigned)
    if stored:
        profile = _load_stored(opened, data, duration, batch)
    else:
        profile = _measure(opened, data, duration or _DURATION_S, batch)
    writes: list[Callable[[], None]] = []
    if stores:
        writes.append(lambda: opened.write_profile(profile, key=signing_key))
    if plot is not None and draw is not None:
        writes.append(lambda: _write_page(plot, draw(profile, opened.manifest.model, opened.manifest.exits)))
    errors = [error for write in writes if (error := _error_of(write)) is not None]
    _show(profile, opened, as_json=as_json)
    if errors:
        raise errors[0]  # after the figures are shown, so that the measurement is not lost
    if not as_json:
        next_step(_next_step(profile, opened))


def _show(profile: "LatencyProfile", bundle: "Bundle", *, as_json: bool) -> None:
    if profile.invalid:
        warn(f"no costs are taken from this profile: {'; '.join(profile.invalid)}")
    if as_json:
        print_json(profile)
        return
    print_profile(profile, bundle.manifest.exits)
    if profile.end_to_end is None:
        print_no_end_to_end(bundle.path, has_policy=bundle.policy() is not None)


def _next_step(profile: "LatencyProfile", bundle: "Bundle") -> str:
    if profile.invalid:
        again = f"edgeexit profile {bundle.path}"
        if profile.telemetry is not None and profile.telemetry.throttled:
            return f"let the machine cool down or improve its power supply, then run: {again}"
        return f"stop the other programs, then run: {again}"
    return how_to_get_a_policy(bundle.path) if bundle.policy() is None else f"edgeexit inspect {bundle.path}"


def _write_page(plot: Path, page: bytes) -> None:
    from edgeexit.files import write_atomic

    write_atomic(plot, page)
    notes.print(f"page: {printable(plot)}", soft_wrap=True)


def _error_of(write: Callable[[], None]) -> OSError | None:
    """Return the error of a write, or None."""
    try:
        write()
    except OSError as error:
        return error
    return None


def _measure(opened: "Bundle", data: Path | None, duration: float, batch: int) -> "LatencyProfile":
    from edgeexit.runtime import profile_bundle

    document = opened.policy()
    with show_progress("profiling") as progress:
        profile = profile_bundle(
            opened,
            policy=None if document is None else document.policy,
            dataset=_dataset(data, opened),
            seconds=duration,
            batch=batch,
            progress=progress,
        )
    for warning in profile.warnings:
        warn(warning)
    if batch != _STORED_BATCH:
        warn(f"the profile is not stored: the batch size is {batch}, and costs need single samples")
    return profile


def _load_stored(opened: "Bundle", data: Path | None, duration: float | None, batch: int) -> "LatencyProfile":
    from edgeexit.errors import BundleError, ConfigError

    if data is not None or duration is not None or batch != _STORED_BATCH:
        raise ConfigError("--stored measures nothing; remove --data, --duration and --batch")
    profile = opened.profile()
    if profile is None:
        raise BundleError(f"bundle '{opened.path}' has no profile; run `edgeexit profile {opened.path}` on the device")
    return profile


def _compare(a: Path, b: Path, *, data: Path | None, duration: float, as_json: bool) -> None:
    from edgeexit.bundle import Bundle
    from edgeexit.runtime.profiling.compare import compare_bundles

    first, second = Bundle.open(a), Bundle.open(b)
    with show_progress("profiling") as progress:
        comparison = compare_bundles(first, second, dataset=_dataset(data, first), seconds=duration, progress=progress)
    for path, side in ((a, comparison.a), (b, comparison.b)):
        for warning in side.warnings:
            warn(f"{path}: {warning}")
    if comparison.invalid:
        warn(f"the comparison is not reliable: {'; '.join(comparison.invalid)}")
    if as_json:
        print_json(comparison)
        return
    print_comparison(comparison, str(a), str(b))
    for path, opened in {a: first, b: second}.items():
        if opened.policy() is None:
            print_no_end_to_end(path, has_policy=False)
    next_step(f"edgeexit profile {b}")


def _dataset(data: Path | None, bundle: "Bundle") -> "Dataset | None":
    return None if data is None else read_samples(data, bundle.manifest)


def _require_drawing(plot: Path, bundle: Path) -> "Callable[[LatencyProfile, str, tuple[str, ...]], bytes]":
    """Return the function that draws a page. Raises DataError for an unusable path, and ConfigError without plotly."""
    from edgeexit.errors import ConfigError

    require_page("--plot", plot, bundle)
    try:
        from edgeexit.report.profile_page import render_profile_page
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--plot needs the package '{error.name}' (edgeexit[compile]); profile without --plot, copy profile.json "
            f"into the bundle on a PC, and run there: edgeexit profile BUNDLE --stored --plot {plot.name}"
        ) from error
    return render_profile_page
