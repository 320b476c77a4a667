"""Steps 1 to 4 of the quickstart: train a model, compile it, fit policies, profile the stages."""

import time
from pathlib import Path
from typing import Final

from rich.console import Console

from edgeexit.bundle import Bundle
from edgeexit.compiler import STEPS, CompileOptions, compile_bundle
from edgeexit.console import print_table, printable, show_progress
from edgeexit.datasets import Dataset
from edgeexit.fitting import MaxRisk, fit_policy
from edgeexit.formatting import milliseconds, percent
from edgeexit.latency import LatencyProfile
from edgeexit.policies import Policy, PolicyDocument
from edgeexit.policies.readout import TOP1
from edgeexit.quickstart.digits import Digits, Part
from edgeexit.quickstart.fleet import QuickstartError
from edgeexit.quickstart.network import train
from edgeexit.quickstart.output import print_step
from edgeexit.recorded_readouts import record_readouts
from edgeexit.runtime import Evaluation, Runner, evaluate, profile_bundle, record

RISK: Final = 0.05
DELTA: Final = 0.1

_EPOCHS = 20
_MIN_ACCURACY = 0.97
_POLICY = "beem"
_PROFILE_S = 2.0


def train_and_compile(console: Console, out: Path, digits: Digits, *, seed: int) -> Bundle:
    """Train a network and write its bundle to `out`. Raises QuickstartError if its accuracy is too low."""
    print_step(
        console,
        1,
        "Train",
        "A residual network with four exits is trained on the digits of scikit-learn, upscaled to 32x32: "
        f"{len(digits.train.labels)} for training, the others for fitting, testing and the input stream.",
    )
    started = time.monotonic()
    with show_progress("training", total=_EPOCHS) as progress:
        network = train(digits.train, epochs=_EPOCHS, seed=seed, progress=progress)
    trained_s = time.monotonic() - started

    options = CompileOptions(
        example={"image": digits.held_out.images[:256]},
        name="digits",
        class_names=tuple(str(digit) for digit in range(10)),
    )
    with show_progress("compiling", steps=STEPS) as progress:
        bundle = compile_bundle(network, out, options, progress=progress)
    with Runner(bundle) as runner:
        recording = record(runner, as_dataset(digits.test))
    accuracies = (recording.readouts[:, :, TOP1] == digits.test.labels[:, None]).mean(axis=0)
    console.print(
        f"Trained in {trained_s:.0f} s. Accuracy on test samples: "
        + ", ".join(f"{name} {percent(a)}" for name, a in zip(bundle.manifest.exits, accuracies, strict=True))
    )
    if accuracies[-1] < _MIN_ACCURACY:
        raise QuickstartError(
            f"the accuracy of the final exit is {percent(accuracies[-1])}, but the quickstart needs at least "
            f"{percent(_MIN_ACCURACY)}; try another --seed"
        )

    proof = bundle.manifest.proof
    print_step(
        console,
        2,
        "Compile",
        f"The graph is split at its exits into {len(bundle.manifest.stages)} stages for target "
        f"{bundle.manifest.target}. Proof: the stages, run one after the other, give the same logits as the full model "
        f"on {proof.samples} real samples. The live bytes are the size of the tensors that later stages need.",
    )
    print_table(
        "Stages",
        ("stage", "exit", "live bytes per sample", "MACs", "max error"),
        [
            (
                stage.name,
                stage.exit.name,
                f"{sum(tensor.bytes_per_sample or 0 for tensor in bundle.manifest.live_after(index)):,}",
                f"{stage.macs:,}",
                f"{proof.max_absolute_error[stage.exit.name]:.2g}",
            )
            for index, stage in enumerate(bundle.manifest.stages)
        ],
        to=console,
    )
    return bundle


def fit_policies(console: Console, bundle: Bundle, digits: Digits) -> tuple[dict[str, Evaluation], Policy]:
    """Fit policies, write one into the bundle; return their evaluations on test samples, and the written policy."""
    print_step(
        console,
        3,
        "Fit",
        f"Policies are fitted on the readouts of the compiled stages for {len(digits.held_out.labels)} held-out "
        "samples. Each fit returns the cheapest policy whose predictions differ from the final exit's on at most "
        f"{100 * RISK:g} % of the inputs, with probability {100 * (1 - DELTA):g} %. The table shows measurements on "
        "test samples with batch size 1. Agreement is the fraction of predictions that equal the final exit's. The "
        "columns with the names of exits show the fraction of samples that exit there.",
    )
    dataset = record_readouts(bundle, as_dataset(digits.held_out), bundle.costs().cumulative)
    with Runner(bundle) as runner:
        fits = {kind: fit_policy(kind, dataset, MaxRisk(risk=RISK, delta=DELTA)) for kind in ("confidence", "beem")}
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
    """Measure the latency of the stages and of the policy on this machine; write the profile into the bundle."""
    profile = profile_bundle(bundle, policy=policy, dataset=as_dataset(digits.test), seconds=_PROFILE_S)
    bundle.write_profile(profile)
    print_step(
        console,
        4,
        "Profile",
        f"The latency of each stage is measured on this machine ({profile.machine}, {profile.runtime}).",
    )
    rows = [(stage.name, stage.latency) for stage in profile.stages]
    if profile.end_to_end is not None:
        rows.append((f"end to end, {profile.policy}", profile.end_to_end))
    print_table(
        "Latency",
        ("part", "mean", "p50", "p90", "p99"),
        [
            (name, *map(milliseconds, (summary.mean_ms, summary.p50_ms, summary.p90_ms, summary.p99_ms)))
            for name, summary in rows
        ],
        to=console,
    )
    if profile.invalid:
        console.print(
            printable(
                f"The machine was not idle, so a fit would not use these latencies: {'; '.join(profile.invalid)}."
            ),
            soft_wrap=True,
        )
    return profile


def as_dataset(part: Part) -> Dataset:
    """Return the part as a data set with the network's input name."""
    return Dataset(inputs={"image": part.images}, labels=part.labels)
