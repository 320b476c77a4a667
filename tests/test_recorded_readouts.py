"""What a fit expects is what the stages do, sample by sample, for logits of every scale."""

import numpy as np
import pytest
import torch
from torch import nn

from edgeexit.compiler import CompileOptions, compile_bundle
from edgeexit.datasets import Dataset
from edgeexit.fitting import FITTING_KINDS, Budget, FitOptions, MaxRisk, choose_policy, fit_policy
from edgeexit.fitting.replay import replay
from edgeexit.policies import exit_rates, exits_of
from edgeexit.recorded_readouts import record_readouts
from edgeexit.runtime import Runner

CLASSES, FEATURES, SAMPLES = 6, 24, 300
SCALES = (1e-3, 1.0, 30.0, 1e3)
_random = np.random.default_rng(0)
MEANS = _random.normal(size=(CLASSES, FEATURES)).astype(np.float32)
LABELS = _random.integers(0, CLASSES, SAMPLES)
INPUTS = (MEANS[LABELS] + 1.3 * _random.normal(size=(SAMPLES, FEATURES))).astype(np.float32)


class _Exits(nn.Module):
    """An exit that classifies by the distance to class means, and two that are linear; deeper exits see more features.

    `scale` multiplies all logits: a temperature that no decision may depend on.
    """

    def __init__(self, scale):
        super().__init__()
        self.scale = scale
        self.register_buffer("means", torch.from_numpy(MEANS))
        self.middle, self.last = nn.Linear(FEATURES, FEATURES, bias=False), nn.Linear(FEATURES, FEATURES, bias=False)
        with torch.no_grad():
            self.middle.weight.copy_(torch.eye(FEATURES))
            self.last.weight.copy_(torch.eye(FEATURES))

    def forward(self, x):
        few, near = x[:, :6], self.means[:, :6]
        distances = (few[:, None] - near).square().sum(dim=2)
        y = self.middle(x)
        z = self.last(y)
        logits = {
            "means": -5 * distances,
            "half": _linear(y[:, :14], self.means[:, :14]),
            "full": _linear(z, self.means),
        }
        return {name: self.scale * values for name, values in logits.items()}


def _linear(x, means):
    return (2 * x @ means.T - means.square().sum(dim=1)) / 3.4


@pytest.fixture(scope="module", params=SCALES)
def scaled(request, tmp_path_factory):
    """Return the scale, an open runner of the network, and what was recorded of the fitting samples."""
    folder = tmp_path_factory.mktemp("scaled") / "bundle"
    bundle = compile_bundle(_Exits(request.param).eval(), folder, CompileOptions(example={"x": INPUTS[:64]}))
    recorded = record_readouts(bundle, Dataset(inputs={"x": INPUTS}, labels=LABELS), bundle.costs().cumulative)
    with Runner(bundle) as runner:
        yield request.param, runner, recorded


_seen: dict[tuple[str, str], tuple[float, ...]] = {}
"""(kind, goal) -> the exit rates of the first scale."""


@pytest.mark.parametrize("kind", FITTING_KINDS)
@pytest.mark.parametrize("goal", ["budget", "risk", "no temperatures"])
def test_the_stages_do_what_the_fit_expects_whatever_the_scale_of_the_logits(scaled, kind, goal):
    scale, runner, recorded = scaled
    if (goal, scale) == ("no temperatures", 1e-3):
        pytest.skip("at temperature 1, all probabilities are equal except for rounding")
    options = FitOptions(temperatures=goal != "no temperatures")
    fit = fit_policy(kind, recorded, MaxRisk(risk=0.1) if goal == "risk" else _half(recorded), options)
    scores, predictions = replay(fit.policy, recorded)
    exits = exits_of(scores, fit.policy.thresholds)
    expected = predictions[np.arange(SAMPLES), exits]

    together = runner.infer({"x": INPUTS}, policy=fit.policy)
    np.testing.assert_array_equal(together.exits, exits)
    np.testing.assert_array_equal(together.predictions, expected)
    for n in range(0, SAMPLES, 6):
        alone = runner.infer({"x": INPUTS[n : n + 1]}, policy=fit.policy)
        assert (alone.exits[0], alone.predictions[0]) == (exits[n], expected[n])
    rates = exit_rates(exits, 3)
    if goal == "budget":
        assert np.asarray(recorded.costs)[together.exits].mean() == pytest.approx(fit.expected.mean_cost)
        assert fit.expected.exit_rates == rates
    if goal != "no temperatures" and scale != 30:  # a temperature of four digits follows powers of ten exactly
        assert _seen.setdefault((kind, goal), rates) == rates


def test_the_comparison_of_kinds_does_not_depend_on_the_scale(scaled):
    scale, _, recorded = scaled
    choice = choose_policy(recorded, _half(recorded), kinds=("confidence", "patience", "beem", "ztw"))
    losses = tuple(round(comparison.mean_loss, 6) for comparison in choice.comparisons)
    if scale != 30:
        assert _seen.setdefault(("auto", "budget"), losses) == losses


def _half(recorded):
    return Budget(cost=(recorded.costs[0] + recorded.costs[-1]) / 2)
