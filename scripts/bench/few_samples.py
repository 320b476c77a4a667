"""Fits for a certified risk on few samples: how often a fit stays at full depth, what it costs, and whether it holds.

Samples are drawn from populations of recorded logits, so the true risk and cost of each fit are known. They are fitted
as the audits of a cohort are: readouts only, under the temperatures of the policy.

    python scripts/bench/few_samples.py --record digits.npz   trains the network of the quickstart (a minute), and
                                                              records its logits for two degradations
    python scripts/bench/few_samples.py digits.npz            fits

Without a file, the populations are those of the tests. To compare with another commit, put that commit first in
PYTHONPATH; the draws are the same.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from edgeexit.fitting import MaxRisk, ReadoutDataset, expect, fit_thresholds
from edgeexit.policies.confidence import Confidence

RISK, DELTA = 0.05, 0.1
FITS = {180: 400, 200: 400, 500: 200, 1000: 100, 5000: 30}
"""Number of fits for each number of samples."""


DEGRADATIONS = ((0.7, 0.15), (0.5, 0.3))
"""Contrast and noise of the recorded digits."""
COPIES = 8
"""Number of degraded copies of each image that the network was not trained on."""


def main() -> None:
    """Record logits, or print a row per population and number of samples."""
    if sys.argv[1:2] == ["--record"]:
        record(Path(sys.argv[2]))
        return
    print("| population | samples | fits at full depth | cost | worst 10 % of costs | risks above 5 % | ms per fit |")
    print("|---|---|---|---|---|---|---|")
    for name, population in populations(sys.argv[1:]):
        for samples, fits in FITS.items():
            print(f"| {name} | {samples:,} | {row(population, samples, fits)} |", flush=True)


def populations(paths: list[str]) -> Iterator[tuple[str, ReadoutDataset]]:
    """Yield name and readouts of each population."""
    if not paths:
        sys.path.append(str(Path(__file__).parents[2]))
        from tests.fitting.populations import population  # noqa: PLC0415 - only without a file

        yield "4 exits", population(20_000, seed=99, labels=False)
        yield "8 exits", population(20_000, seed=97, exits=8, labels=False)
    for path in paths:
        with np.load(path) as file:
            for name in sorted(set(file.files) - {"costs"}):
                yield f"{Path(path).stem}, {name}", ReadoutDataset.from_logits(file[name], costs=file["costs"].tolist())


def record(path: Path, seed: int = 1) -> None:
    """Train the network of the quickstart, and write its logits for degraded digits, and its cumulative MACs."""
    import torch  # noqa: PLC0415 - only to record

    from edgeexit.quickstart.digits import Part, degrade, load_digits  # noqa: PLC0415
    from edgeexit.quickstart.network import train  # noqa: PLC0415

    digits = load_digits(seed)
    network = train(digits.train, epochs=20, seed=seed)
    layers: list[tuple[bool, int]] = []

    def count(layer: torch.nn.Module, _: object, output: torch.Tensor) -> None:
        weights = layer.weight[0].numel()  # type: ignore[index]
        layers.append((isinstance(layer, torch.nn.Linear), output.numel() * weights))

    hooks = [
        layer.register_forward_hook(count)
        for layer in network.modules()
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear)
    ]
    network(torch.zeros(1, 1, 32, 32))
    for hook in hooks:
        hook.remove()
    macs = np.cumsum([macs for _, macs in layers])[[head for head, _ in layers]]  # each exit ends with a linear layer

    parts = (digits.held_out, digits.test, digits.stream)
    unseen = Part(np.concatenate([p.images for p in parts]), np.concatenate([p.labels for p in parts]))
    logits = {}
    for contrast, noise in DEGRADATIONS:
        copies = [degrade(unseen, noise=noise, contrast=contrast, seed=1000 + copy).images for copy in range(COPIES)]
        with torch.no_grad():
            exits = [network(torch.from_numpy(copy)) for copy in copies]
        logits[f"contrast {contrast}, noise {noise}"] = np.concatenate([torch.stack(e, dim=1).numpy() for e in exits])
    np.savez(path, costs=macs / macs[-1], **logits)


def row(population: ReadoutDataset, samples: int, fits: int) -> str:
    """Return the cells of a row: fits at full depth, costs relative to full depth, risks, and time."""
    bare = msgspec.structs.replace(population, logits=None)
    early = population.exits - 1
    unfitted = Confidence(temperatures=population.temperatures, thresholds=(None,) * early)
    at_full_depth, spent = 0, 0.0
    costs, risks = np.empty(fits), np.empty(fits)
    for seed in range(fits):
        drawn = bare.take(np.random.default_rng(seed).integers(len(bare), size=samples))
        started = time.perf_counter()
        policy = fit_thresholds(unfitted, drawn, MaxRisk(risk=RISK, delta=DELTA), seed=seed).policy
        spent += time.perf_counter() - started
        truth = expect(policy, bare)
        costs[seed], risks[seed] = truth.mean_cost / population.costs[-1], truth.disagreement
        at_full_depth += policy.thresholds == unfitted.thresholds
    return (
        f"{at_full_depth / fits:.0%} | {costs.mean():.3f} | {np.quantile(costs, 0.9):.3f} "
        f"| {(risks > RISK).mean():.0%} | {1000 * spent / fits:.0f}"
    )


if __name__ == "__main__":
    main()
