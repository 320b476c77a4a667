"""The registry of fitting kinds, and a new kind that needs two registrations and nothing else."""

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgeexit.errors import FittingError, PolicyError
from edgeexit.fitting import (
    FITTING_KINDS,
    Budget,
    FitOptions,
    KindRule,
    MaxRisk,
    choose_policy,
    fit_by_rule,
    fit_policy,
    register_fitting_kind,
    require_fitting_kind,
)
from edgeexit.policies import KINDS, PolicyDocument, decode_document, encode_document, register_policy, simulate_exits
from edgeexit.policies.confidence import Confidence
from tests.fitting import new_kind
from tests.fitting.new_kind import Scaled
from tests.fitting.populations import population

ROOT = Path(__file__).parents[3]
DATASET = population(300, seed=1)


@pytest.fixture
def scaled():
    with new_kind.new_kind() as kind:
        yield kind


def document(policy):
    return PolicyDocument(bundle="ab" * 32, revision=1, policy=policy)


def test_every_policy_has_a_fitting_kind_in_the_same_order():
    assert list(FITTING_KINDS) == list(KINDS)
    assert all(FITTING_KINDS[name].policy is policy for name, policy in KINDS.items())


def test_a_new_kind_can_be_fitted_stored_and_used_for_decisions(scaled):
    fit = fit_policy("scaled", DATASET, Budget(cost=2.0))
    assert isinstance(fit.policy, Scaled)
    assert fit.expected.mean_cost <= 2.0
    stored = decode_document(encode_document(document(fit.policy)))
    assert stored.policy == fit.policy
    exits = simulate_exits(stored.policy, DATASET.at(stored.policy.temperatures).readouts)
    assert tuple(np.bincount(exits, minlength=4) / 300) == pytest.approx(fit.expected.exit_rates)
    assert fit_policy("scaled", DATASET, MaxRisk(risk=0.1)).certificate is not None


def test_a_new_kind_takes_part_in_auto(scaled):
    choice = choose_policy(DATASET, Budget(cost=2.0), options=FitOptions(folds=2, temperatures=False))
    assert [comparison.kind for comparison in choice.comparisons] == [*KINDS]
    assert choice.comparisons[-1].kind == "scaled"
    assert choice.comparisons[-1].failure is None


def test_a_document_of_a_new_kind_is_decoded_as_strictly_as_others(scaled):
    content = encode_document(document(Scaled(temperatures=(1.0, 1.0), thresholds=(0.5,), factors=(0.5, 0.75))))
    for old, new, message in (
        (b'"factors":[0.5,0.75]', b'"factors":[0.5,"a"]', r"\$\.policy\.factors\[1\]"),
        (b'"factors":[0.5,0.75]', b'"factors":[0.5]', "factors has 1 entries where 2 are needed"),
        (b'"factors":[0.5,0.75]', b'"factors":[0.5,0.75],"extra":1', "extra"),
    ):
        assert old in content
        with pytest.raises(PolicyError, match=message):
            decode_document(content.replace(old, new))


def test_a_kind_that_is_not_registered_is_refused_with_the_closest_name():
    content = encode_document(document(Scaled(temperatures=(1.0, 1.0), thresholds=(0.5,), factors=(0.5, 0.75))))
    with pytest.raises(PolicyError, match="policy kind 'scaled' is unknown; known kinds: confidence, ") as raised:
        decode_document(content)
    assert "scaled" not in str(raised.value).split("known kinds")[1]
    with pytest.raises(PolicyError, match="'beam' is unknown; did you mean 'beem'"):
        decode_document(content.replace(b'"scaled"', b'"beam"'))
    with pytest.raises(FittingError, match="'scaled' is unknown"):
        require_fitting_kind("scaled")


def test_two_kinds_cannot_have_one_name(scaled):
    register_policy(Scaled)  # the same class again is no conflict

    class Impostor(Confidence, frozen=True, kw_only=True, tag="scaled"):
        pass

    class Nameless(msgspec.Struct, frozen=True):
        pass

    with pytest.raises(ValueError, match="'scaled' is registered already, as Scaled; choose another tag"):
        register_policy(Impostor)
    with pytest.raises(TypeError, match="Nameless has no name"):
        register_policy(Nameless)
    with pytest.raises(ValueError, match="'scaled' is not registered; call register_policy"):
        register_fitting_kind(msgspec.structs.replace(new_kind.KIND, policy=Impostor))
    with pytest.raises(ValueError, match="'scaled' is registered already; register each kind once"):
        register_fitting_kind(msgspec.structs.replace(new_kind.KIND))


def test_kinds_that_read_probabilities_cannot_be_refitted_from_audits():
    assert {name for name, kind in FITTING_KINDS.items() if kind.policy.reads_probabilities} == {"ztw", "eenet"}


def test_only_eenet_learns_for_a_budget():
    assert {name for name, kind in FITTING_KINDS.items() if kind.learns_for_budget} == {"eenet"}


def test_patience_voting_and_ztw_do_not_depend_on_temperatures():
    unaffected = {name for name, kind in FITTING_KINDS.items() if "temperatures" not in kind.learns}
    assert unaffected == {"patience", "voting", "ztw"}


def test_an_unknown_rule_is_refused_with_the_known_ones():
    with pytest.raises(FittingError, match="rule 'magic' of policy 'beem' is unknown; known rules: paired, error-rate"):
        fit_by_rule(DATASET, KindRule(kind="beem", rule="magic"))
    with pytest.raises(FittingError, match="known rules: none"):
        fit_by_rule(DATASET, KindRule(kind="margin", rule="paired"))


def test_the_table_in_the_documentation_equals_the_registry():
    subprocess.run([sys.executable, ROOT / "scripts" / "policy_table.py", "--check"], check=True, cwd=ROOT)
