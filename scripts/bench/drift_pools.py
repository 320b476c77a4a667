"""Populations of samples whose readouts at all exits are known, so the true risk of any policy is a mean over them."""

import copy
import sys
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.fitting import ReadoutDataset
from edgeexit.fitting.path import threshold_path
from edgeexit.policies import Policy, simulate, simulate_exits
from edgeexit.policies.confidence import Confidence
from edgeexit.policies.readout import TOP1, Array

if TYPE_CHECKING:
    from torch import nn

_PATH_POINTS: Final = 256
_BOARD_BITS: Final = 4


class Truth(NamedTuple):
    """What a policy does on a population."""

    risk: float
    cost: float
    """As a fraction of full depth."""


class World(NamedTuple):
    """The populations of a benchmark, and what is the same in all of them."""

    name: str
    costs: tuple[float, ...]
    pools: dict[str, Array]
    """Name -> readouts [N, K, 4]: "easy", "hard", "broken" (failed sensors), "shifted" (other label frequencies),
    "board" (another camera, and weights of fewer bits)."""

    @property
    def unfitted(self) -> Policy:
        """A policy without thresholds."""
        exits = len(self.costs)
        return Confidence(temperatures=(1.0,) * exits, thresholds=(None,) * (exits - 1))

    def truth(self, policy: Policy, pool: str) -> Truth:
        """Return the true risk and cost of a policy on a population."""
        readouts = self.pools[pool]
        exits = simulate_exits(policy, readouts)
        taken = simulate(policy, readouts).predictions[np.arange(len(exits)), exits]
        risk = float((taken != readouts[:, -1, TOP1]).mean())
        return Truth(risk, float(np.array(self.costs)[exits].mean()) / self.costs[-1])

    def oracle_points(self, pools: tuple[str, ...]) -> list[tuple[Truth, ...]]:
        """Return what each point of a path does on each of these populations; all of their samples choose the path."""
        together = np.concatenate([self.pools[pool] for pool in pools])
        dataset = ReadoutDataset(readouts=together, costs=self.costs, temperatures=self.unfitted.temperatures)
        path = threshold_path(self.unfitted, dataset, max_points=_PATH_POINTS)
        policies = [Confidence(temperatures=self.unfitted.temperatures, thresholds=one) for one in path]
        return [tuple(self.truth(policy, pool) for pool in pools) for policy in policies]


def synthetic_world(samples: int) -> World:
    """Return populations whose exits are the more confident the deeper they are; harder ones are overconfident."""
    random = np.random.default_rng(0)
    return World(
        "synthetic",
        (1.0, 2.0, 3.0, 4.0),
        {
            "easy": _drawn(samples, 0.3, 1.2, random),
            "hard": _drawn(samples, 1.0, 1.2, random),
            "broken": _drawn(samples, 5.0, 1.2, random),
            "shifted": _drawn(samples, 0.8, 2.5, random),
            "board": _drawn(samples, 1.5, 1.2, random),
        },
    )


def _drawn(samples: int, overconfidence: float, difficulty: float, random: np.random.Generator) -> Array:
    """Return readouts [N, 4, 4] of samples of a difficulty; an exit agrees with probability p1 ** overconfidence."""
    exits = 4
    hard = random.beta(difficulty, 1.5, samples)[:, None]
    evidence = 4 * (1.6 * np.arange(1, exits + 1) / exits - hard) + 0.7 * random.normal(size=(samples, exits))
    confidence = np.sort(np.clip(1 / (1 + np.exp(-evidence)), 0.1, 0.999), axis=1)
    agrees = random.random((samples, exits)) < confidence**overconfidence
    agrees[:, -1] = True
    readouts = np.zeros((samples, exits, 4), dtype=np.float32)
    readouts[:, :, TOP1], readouts[:, :, 1], readouts[:, :, 2] = ~agrees, confidence, (1 - confidence) / 2
    return readouts


def digits_world(*, epochs: int, copies: int) -> World:
    """Train the network of the quickstart and record the digits that it was not trained on, in several conditions.

    `copies`: so many times, with other noise, each image is in the populations of noisy images.
    """
    import torch  # noqa: PLC0415 - other worlds do not need it

    from edgeexit.quickstart.digits import Part, degrade, load_digits  # noqa: PLC0415
    from edgeexit.quickstart.network import train  # noqa: PLC0415

    torch.set_num_threads(1)
    digits = load_digits(0)
    print("training the network of the digits", file=sys.stderr)
    network = train(digits.train, epochs=epochs, seed=0).eval()
    rest = [digits.held_out, digits.test, digits.stream]
    part = Part(np.concatenate([one.images for one in rest]), np.concatenate([one.labels for one in rest]))

    board = with_coarse_weights(network, bits=_BOARD_BITS)

    def recorded(noise: float, contrast: float, network: "nn.Module" = network) -> Array:
        parts = []
        for seed in range(copies):
            noisy = degrade(part, noise=noise, contrast=contrast, seed=seed)
            with torch.inference_mode():
                logits = torch.stack(network(torch.from_numpy(noisy.images)), dim=1).numpy()
            parts.append(ReadoutDataset.from_logits(logits, costs=_DIGITS_COSTS).readouts)
        return np.concatenate(parts)

    easy = recorded(0.05, 1.0)
    return World(
        "digits",
        _DIGITS_COSTS,
        {
            "easy": easy,
            "hard": recorded(0.22, 0.75),
            "broken": recorded(0.35, 0.5),
            "board": recorded(0.15, 1.0, board),
            "shifted": easy[hard_labels(easy, np.tile(part.labels, copies))],
        },
    )


_DIGITS_COSTS: Final = (0.25, 0.5, 0.75, 1.0)


def hard_labels(readouts: Array, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the samples of the three labels for which the first exit differs most often from the last one."""
    differs = readouts[:, 0, TOP1] != readouts[:, -1, TOP1]
    rates = [differs[labels == label].mean() for label in range(10)]
    return np.flatnonzero(np.isin(labels, np.argsort(rates)[-3:]))


def with_coarse_weights(network: "nn.Module", *, bits: int) -> "nn.Module":
    """Return a copy of a network in evaluation mode, its matrices and kernels rounded to integers of so many bits."""
    import torch  # noqa: PLC0415 - other worlds do not need it

    coarse = copy.deepcopy(network).eval()
    with torch.no_grad():
        for weights in coarse.parameters():
            if weights.dim() > 1:
                step = weights.abs().max() / (2 ** (bits - 1) - 1)
                weights.copy_((weights / step).round() * step)
    return coarse
