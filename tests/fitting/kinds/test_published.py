"""The methods of all papers for a budget."""

import pytest

from edgeexit.errors import FittingError
from edgeexit.fitting import expect
from edgeexit.fitting.kinds.beem import beem_policy
from edgeexit.fitting.kinds.confidence import msdnet_policy
from edgeexit.fitting.kinds.entropy import branchynet_policy
from edgeexit.fitting.kinds.patience import pabee_policy
from tests.fitting.populations import population


@pytest.mark.parametrize("method", [msdnet_policy, branchynet_policy, pabee_policy, beem_policy])
@pytest.mark.parametrize("budget", [2.4, 2.8, 3.3, 3.9])
def test_budgets_hold_on_the_fitting_samples(method, budget):
    dataset = population(1001, seed=3)
    expected = expect(method(dataset, budget), dataset)
    assert expected.mean_cost <= budget + 1e-9
    assert expected.mean_loss < 0.5


@pytest.mark.parametrize("method", [msdnet_policy, branchynet_policy, pabee_policy, beem_policy])
def test_the_error_for_a_budget_below_the_first_exit_states_the_lowest_cost(method):
    with pytest.raises(FittingError, match=r"0\.5 cannot be reached: .* [0-9]"):
        method(population(100, seed=3), 0.5)
