"""The quickstart's seven steps, in order: train, compile, fit, profile, start, drift and update, stop."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from edgeexit_calibration import CohortAddress, open_database, register
from rich.console import Console

from edgeexit.bundle import Bundle
from edgeexit.cli.output import milliseconds, print_table, progress_bar, share
from edgeexit.compiler import compile_bundle
from edgeexit.datasets import Dataset, save_arrays
from edgeexit.fitting import fit_max_risk, make_template
from edgeexit.policies import AnyPolicy, PolicyDocument
from edgeexit.policies.readout import TOP1
from edgeexit.quickstart.digits import Digits, Part, load_digits, worsen
from edgeexit.quickstart.fleet import COHORT, DEVICES, FLEET, Fleet, QuickstartError
from edgeexit.quickstart.report import Story, write_report
from edgeexit.quickstart.watch import Moment, Watcher
from edgeexit.runtime import Evaluation, Runner, evaluate, full_depth, profile_bundle, record

REPORT: Final = "quickstart-report.html"

_MARKER = ".edgeexit-quickstart"
_EPOCHS = 20
_LEAST_ACCURACY = 0.97
_RISK, _DELTA = 0.05, 0.1
_POLICY = "beem"
_PROFILE_S = 2.0
_RATE_HZ = 60.0
_AUDIT_SHARE = 0.3
_CHECK_INTERVAL_S = 1.0
_NOISE, _CONTRAST = 0.2, 0.75
_NOISY_COPIES = 4
_AUDITS_BEFORE, _AUDITS_AFTER = 200, 300
_WAIT_S = 90.0
_STATUS_S = 3.0


def tell(folder: Path, console: Console, *, seed: int, linger: Callable[[Fleet], None] | None = None) -> Story:
    """Run the seven steps in `folder` and return their figures.

    Args:
        folder: made anew; an earlier quickstart's is replaced, anything else is refused.
        console: where the paragraphs and tables go.
        seed: of data split, training and drift.
        linger: called with the running fleet before it is stopped.

    Raises QuickstartError when a step does not do what the story needs.

    """
    _make_folder(folder)
    digits = load_digits(seed)
    stream = folder / "stream.npz"
    save_arrays(folder / "heldout.npz", _arrays(digits.held_out))
    save_arrays(folder / "test.npz", _arrays(digits.test))
    save_arrays(stream, _arrays(digits.stream))

    bundle = _compile(folder, console, digits, seed)
    evaluations, policy = _fit(console, bundle, digits)
    _profile(console, bundle, digits, policy)
    profile = bundle.profile()
    if profile is None:
        raise QuickstartError("the profile was not stored")

    with Fleet(folder) as fleet:
        _start(console, fleet, bundle, stream)
        watcher = Watcher(
            fleet, CohortAddress(FLEET, bundle.digest, COHORT), on_moment=_every(_STATUS_S, _print_moment(console))
        )
        watcher.wait("both agents on revision 1", lambda: watcher.devices_on(1) == len(DEVICES), limit_s=_WAIT_S)
        since = watcher.watermark()
        watcher.wait_for_audits(_AUDITS_BEFORE, after=since, revision=1, limit_s=_WAIT_S)
        changed = watcher.watermark()
        before = watcher.phase("before", revision=1, after=since, until=changed)
        _show_reports(console, watcher)

        _say(console, 6, "Drift and update", _DRIFT_TEXT)
        drift_s = watcher.seconds
        save_arrays(stream, _arrays(_worsened(digits.stream, seed)))
        watcher.wait("a new revision", lambda: watcher.newest_revision() > 1, limit_s=_WAIT_S)
        console.print(f"  {watcher.seconds - drift_s:.0f} s after the change the calibrator has signed revision 2")
        watcher.wait("both agents on revision 2", lambda: watcher.devices_on(2) == len(DEVICES), limit_s=_WAIT_S)
        update_s = watcher.seconds
        updated = watcher.watermark()
        drifted = watcher.phase("after the change", revision=1, after=changed, until=updated)
        watcher.wait_for_audits(_AUDITS_AFTER, after=updated, revision=2, limit_s=_WAIT_S)
        after = watcher.phase("after the update", revision=2, after=updated)
        watcher.close()

        story = Story(
            model=bundle.manifest.model,
            exits=bundle.manifest.exits,
            policy=policy.kind,
            risk=_RISK,
            delta=_DELTA,
            evaluations=evaluations,
            profile=profile,
            phases=(before, drifted, after),
            moments=tuple(watcher.moments),
            drift_s=drift_s,
            update_s=update_s,
        )
        columns, rows = story.table()
        print_table("Before and after", columns, rows, to=console)
        write_report(folder / REPORT, story)
        if after.disagreement.low > _RISK:
            raise QuickstartError(
                f"the update did not bring agreement back: {after.disagreement.observed:.1%} disagreement where "
                f"{_RISK:.0%} is certified; see {folder / REPORT}"
            )
        if linger is not None:
            linger(fleet)
    _say(console, 7, "Stop", f"Everything that was started is stopped. Bundle, database and report stay in {folder}/.")
    return story


_DRIFT_TEXT = (
    "The stream changes: less contrast, more noise. Early exits stay sure and are wrong more often, so the certificate "
    "no longer holds. The calibrator sees it from the audits alone, without labels; it refits on the new audits, "
    "certifies, signs and publishes. The agents verify, store and apply."
)


def _make_folder(folder: Path) -> None:
    if folder.exists():
        if not (folder / _MARKER).exists():
            raise QuickstartError(f"'{folder}' exists and is not an earlier quickstart's; give another with --out")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / _MARKER).touch()


def _say(console: Console, step: int, title: str, text: str) -> None:
    console.print(f"\n[bold]{step}/7 {title}[/]\n{text}")


def _compile(folder: Path, console: Console, digits: Digits, seed: int) -> Bundle:
    from edgeexit.quickstart.network import train  # noqa: PLC0415 - torch takes seconds to import

    _say(
        console,
        1,
        "Train",
        f"A residual network with four exits learns scikit-learn's digits, upscaled to 32x32: "
        f"{len(digits.train.labels)} to train on, the rest held out for fitting, test and stream.",
    )
    started = time.monotonic()
    with progress_bar("training", total=_EPOCHS) as bar:
        network = train(digits.train, epochs=_EPOCHS, seed=seed, on_epoch=lambda _: bar.advance(bar.task_ids[0]))
    trained_s = time.monotonic() - started

    with progress_bar("compiling") as bar:
        bundle = compile_bundle(
            network,
            folder / "bundle",
            example={"image": digits.held_out.images[:256]},
            name="digits",
            labels=tuple(str(digit) for digit in range(10)),
            on_step=lambda step: bar.update(bar.task_ids[0], description=f"compiling: {step}"),
        )
    with Runner(bundle) as runner:
        recording = record(runner, _dataset(digits.test))
    accuracies = (recording.readouts[:, :, TOP1] == digits.test.labels[:, None]).mean(axis=0)
    console.print(
        f"Trained in {trained_s:.0f} s. Accuracy on test samples: "
        + ", ".join(f"{name} {share(a)}" for name, a in zip(bundle.manifest.exits, accuracies, strict=True))
    )
    if accuracies[-1] < _LEAST_ACCURACY:
        raise QuickstartError(f"the final exit reaches {accuracies[-1]:.1%} where {_LEAST_ACCURACY:.0%} are needed")

    proof = bundle.manifest.proof
    _say(
        console,
        2,
        "Compile",
        f"The graph is split at its exits into {len(bundle.manifest.stages)} stages for target "
        f"{bundle.manifest.target}. Proof: with every stage forced, the composed stages equal the whole model on "
        f"{proof.samples} real samples.",
    )
    print_table(
        "Stages",
        ("stage", "exit", "carries on (bytes/sample)", "MACs", "largest error"),
        [
            (
                stage.name,
                stage.exit.name,
                f"{sum(tensor.bytes_per_sample or 0 for tensor in stage.carry_out):,}",
                f"{stage.macs:,}",
                f"{proof.max_absolute_error[stage.exit.name]:.1e}",
            )
            for stage in bundle.manifest.stages
        ],
        to=console,
    )
    return bundle


def _fit(console: Console, bundle: Bundle, digits: Digits) -> tuple[dict[str, Evaluation], AnyPolicy]:
    _say(
        console,
        3,
        "Fit",
        f"Policies are fitted on what ships: the compiled stages' readouts of {len(digits.held_out.labels)} held-out "
        f"samples. Each is the cheapest whose answers differ from the final exit's on at most {_RISK:.0%} of inputs, "
        f"with probability {1 - _DELTA:.0%}. Measured on test samples, one at a time:",
    )
    with Runner(bundle) as runner:
        readouts = record(runner, _dataset(digits.held_out)).readouts
        fits = {
            kind: fit_max_risk(
                make_template(kind, readouts, digits.held_out.labels),
                readouts,
                bundle.manifest.macs,
                risk=_RISK,
                delta=_DELTA,
            )
            for kind in ("confidence", "beem")
        }
        policies: dict[str, AnyPolicy] = {"whole model": full_depth(fits[_POLICY].policy)}
        policies |= {kind: fit.policy for kind, fit in fits.items()}
        evaluations = evaluate(runner, _dataset(digits.test), policies)
    print_table(
        "Policies",
        ("policy", "accuracy", "agreement", *bundle.manifest.exits, "mean latency"),
        [
            (
                name,
                "-" if result.accuracy is None else share(result.accuracy),
                share(result.agreement),
                *(f"{rate:.0%}" for rate in result.exit_rates),
                milliseconds(result.latency.mean_ms),
            )
            for name, result in evaluations.items()
        ],
        to=console,
    )
    fit = fits[_POLICY]
    bundle.write_policy(
        PolicyDocument(bundle=bundle.digest, revision=0, policy=fit.policy, certificate=fit.certificate)
    )
    return evaluations, fit.policy


def _profile(console: Console, bundle: Bundle, digits: Digits, policy: AnyPolicy) -> None:
    profile = profile_bundle(bundle, policy=policy, dataset=_dataset(digits.test), seconds=_PROFILE_S)
    bundle.write_profile(profile)
    _say(console, 4, "Profile", f"What each stage costs on this machine ({profile.machine}, {profile.runtime}).")
    rows = [(stage.name, stage.latency) for stage in profile.stages]
    if profile.end_to_end is not None:
        rows.append((f"end to end, {profile.policy}", profile.end_to_end))
    print_table(
        "Latency",
        ("", "mean", "p50", "p90", "p99"),
        [
            (name, *(milliseconds(figure) for figure in (found.mean_ms, found.p50_ms, found.p90_ms, found.p99_ms)))
            for name, found in rows
        ],
        to=console,
    )


def _start(console: Console, fleet: Fleet, bundle: Bundle, stream: Path) -> None:
    _say(
        console,
        5,
        "Start a fleet",
        f"A broker (MQTT 3.1.1 on port {fleet.ports.mqtt3}, MQTT 5 on {fleet.ports.mqtt5}), a calibrator on SQLite, "
        f"and {len(DEVICES)} agents, each a process of its own. An agent answers {_RATE_HZ:g} samples a second, "
        f"and audits {_AUDIT_SHARE:.0%} of them: it runs them to full depth after the answer.",
    )
    fleet.start_broker()
    database = open_database(str(fleet.database))
    register(database, bundle, fleet=FLEET, cohort=COHORT, risk=_RISK, delta=_DELTA, who="quickstart")
    database.close()
    fleet.start_calibrator(check_interval_s=_CHECK_INTERVAL_S)
    fleet.start_agents(bundle.path, stream, rate=_RATE_HZ, audit_share=_AUDIT_SHARE)


def _show_reports(console: Console, watcher: Watcher) -> None:
    print_table(
        "Devices, as the calibrator knows them",
        ("device", "state", "policy", "revision"),
        watcher.device_rows(),
        to=console,
    )


def _print_moment(console: Console) -> Callable[[Moment], None]:
    def show(moment: Moment) -> None:
        console.print(
            f"  {moment.seconds:3.0f} s  {moment.reported:6,} samples reported, {moment.audited:5,} audited; "
            f"agreement of the last 100 {moment.agreement:.0%}; revision {moment.revision}"
        )

    return show


def _every(seconds: float, show: Callable[[Moment], None]) -> Callable[[Moment], None]:
    """Return `show`, called for one moment in so many seconds."""
    last = -seconds

    def now_and_then(moment: Moment) -> None:
        nonlocal last
        if moment.seconds - last >= seconds:
            last = moment.seconds
            show(moment)

    return now_and_then


def _worsened(part: Part, seed: int) -> Part:
    copies = [worsen(part, noise=_NOISE, contrast=_CONTRAST, seed=seed + copy) for copy in range(_NOISY_COPIES)]
    return Part(np.concatenate([copy.images for copy in copies]), np.concatenate([copy.labels for copy in copies]))


def _dataset(part: Part) -> Dataset:
    return Dataset(inputs={"image": part.images}, labels=part.labels)


def _arrays(part: Part) -> dict[str, np.ndarray]:
    return {"image": part.images, "labels": part.labels}
