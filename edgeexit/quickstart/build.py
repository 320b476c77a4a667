"""Steps 1 to 4 of the quickstart: train, compile with proof, fit on what ships, profile."""

import time
from pathlib import Path
from typing import Final

from rich.console import Console

from edgeexit.bundle import Bundle
from edgeexit.compiler import STEPS, compile_bundle
from edgeexit.console import print_table, progress_bar
from edgeexit.datasets import Dataset
from edgeexit.fitting import MaxRisk, ReadoutDataset, fit_policy
from edgeexit.formatting import milliseconds, percent
from edgeexit.latency import LatencyProfile
from edgeexit.policies import Policy, PolicyDocument
from edgeexit.policies.readout import TOP1
from edgeexit.quickstart.digits import Digits, Part
from edgeexit.quickstart.fleet import QuickstartError
from edgeexit.quickstart.network import train
from edgeexit.runtime import Evaluation, Runner, evaluate, profile_bundle, record

RISK: Final = 0.05
DELTA: Final = 0.1

_EPOCHS = 20
_MIN_ACCURACY = 0.97
_POLICY = "beem"
_PROFILE_S = 2.0


def say(console: Console, step: int, title: str, text: str) -> None:
    """Print a step's number, title and paragraph."""
    console.print(f"\n[bold]{step}/7 {title}[/]\n{text}")


def train_and_compile(console: Console, out: Path, digits: Digits, *, seed: int) -> Bundle:
    """Train a network and write its bundle to `out`. Raises QuickstartError when the network is not good enough."""
    say(
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

    with progress_bar("compiling", total=len(STEPS)) as bar:
        bundle = compile_bundle(
            network,
            out,
            example={"image": digits.held_out.images[:256]},
            name="digits",
            labels=tuple(str(digit) for digit in range(10)),
            on_step=lambda step: bar.update(bar.task_ids[0], description=f"compiling: {step}", advance=1),
        )
    with Runner(bundle) as runner:
        recording = record(runner, as_dataset(digits.test))
    accuracies = (recording.readouts[:, :, TOP1] == digits.test.labels[:, None]).mean(axis=0)
    console.print(
        f"Trained in {trained_s:.0f} s. Accuracy on test samples: "
        + ", ".join(f"{name} {percent(a)}" for name, a in zip(bundle.manifest.exits, accuracies, strict=True))
    )
    if accuracies[-1] < _MIN_ACCURACY:
        raise QuickstartError(f"the final exit reaches {accuracies[-1]:.1%} where {_MIN_ACCURACY:.0%} are needed")

    proof = bundle.manifest.proof
    say(
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


def fit_policies(console: Console, bundle: Bundle, digits: Digits) -> tuple[dict[str, Evaluation], Policy]:
    """Fit every kind, store one in the bundle; return all evaluations on test samples, and the stored policy."""
    say(
        console,
        3,
        "Fit",
        f"Policies are fitted on what ships: the compiled stages' readouts of {len(digits.held_out.labels)} held-out "
        f"samples. Each is the cheapest whose answers differ from the final exit's on at most {RISK:.0%} of inputs, "
        f"with probability {1 - DELTA:.0%}. Measured on test samples, one at a time:",
    )
    with Runner(bundle) as runner:
        readout_dataset = ReadoutDataset(
            readouts=record(runner, as_dataset(digits.held_out), probabilities=True).readouts,
            costs=bundle.costs().cumulative,
            temperatures=(1.0,) * len(bundle.manifest.stages),
            labels=digits.held_out.labels,
        )
        fits = {
            kind: fit_policy(kind, readout_dataset, MaxRisk(risk=RISK, delta=DELTA)) for kind in ("confidence", "beem")
        }
        evaluations = evaluate(runner, as_dataset(digits.test), {kind: fit.policy for kind, fit in fits.items()})
    print_table(
        "Policies",
        ("policy", "accuracy", "agreement", *bundle.manifest.exits, "mean latency"),
        [
            (
                name,
                "-" if result.accuracy is None else percent(result.accuracy.value),
                percent(result.agreement.value),
                *(percent(rate.value) for rate in result.exit_rates),
                milliseconds(result.latency.mean_ms.value),
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


def profile_stages(console: Console, bundle: Bundle, digits: Digits, policy: Policy) -> LatencyProfile:
    """Measure the bundle on this machine and store the profile in it."""
    profile = profile_bundle(bundle, policy=policy, dataset=as_dataset(digits.test), seconds=_PROFILE_S)
    bundle.write_profile(profile)
    say(console, 4, "Profile", f"What each stage costs on this machine ({profile.machine}, {profile.runtime}).")
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
    return profile


def as_dataset(part: Part) -> Dataset:
    """Return images and labels as the network's input and its labels."""
    return Dataset(inputs={"image": part.images}, labels=part.labels)
