"""EENet: the loss of its scoring function, and the trained scores."""

import numpy as np
from scipy.optimize import check_grad

from edgeexit.fitting.kinds.eenet.examples import ExitInputs, examples_of
from edgeexit.fitting.kinds.eenet.scoring import cross_entropy, exit_loss, fit_scoring, initial_weights
from tests.fitting.kinds.eenet.overconfident import overconfident_in_one_class
from tests.fitting.populations import population


def test_the_gradient_of_the_scoring_loss_equals_finite_differences():
    examples = examples_of(population(100, seed=1))
    random = np.random.default_rng(0)
    inputs = ExitInputs(random.random((100, 4), dtype=np.float32), random.normal(0.4, 0.5, (100, 3)))
    anchor = random.normal(size=7)
    sample_weights = random.dirichlet(np.ones(100))

    def loss(weights):
        return exit_loss(
            weights, inputs, examples.correct[:, 0], sample_weights=sample_weights, anchor=anchor, penalty=0.3
        )

    at = random.normal(size=7)
    scores = inputs.matrix() @ at
    assert (scores < 0).any()  # the tangents are tested, too
    assert (scores > 1).any()
    error = check_grad(lambda w: loss(w)[0], lambda w: loss(w)[1], at)
    assert error < 1e-5 * np.linalg.norm(loss(at)[1])


def test_cross_entropy_has_a_gradient_outside_zero_to_one():
    _, slope = cross_entropy(np.array([1.2, -0.3, 0.5]), np.array([0.0, 1.0, 1.0]))
    assert slope[0] > 0  # too high for a wrong prediction
    assert slope[1] < 0  # too low for a right one
    losses, _ = cross_entropy(np.array([0.5, 0.9]), np.array([1.0, 0.0]))
    np.testing.assert_allclose(losses, [np.log(2), -np.log(0.1)])


def separation(scores, correct):
    """Return the probability that a right prediction has a higher score than a wrong one (AUROC)."""
    right, wrong = scores[correct == 1], scores[correct == 0]
    above, equal = right[:, None] > wrong, right[:, None] == wrong
    return float((above + 0.5 * equal).mean())


def test_trained_scores_separate_right_from_wrong_better_than_confidence():
    """The first exit is overconfident in one class: the scores must learn a lower weight for it."""
    dataset = overconfident_in_one_class(1500)
    examples = examples_of(dataset)
    start = initial_weights(3, 4)
    fitted = fit_scoring(examples, np.full((1500, 3), 1 / 1500), start, 0.01, start)
    rank = [separation(q[:, 0], examples.correct[:, 0]) for q in (examples.initial_scores, fitted.scores)]
    assert rank[1] > rank[0] + 0.1
