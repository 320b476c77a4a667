"""`edgeexit fit`: goals, kinds, the comparison, the report, and errors."""

import json

import numpy as np
import pytest

from edgeexit.bundle import Bundle
from edgeexit.npz import save_arrays
from edgeexit.policies import KINDS
from tests.bundles import make_bundle, make_samples
from tests.fitting.new_kind import new_kind
from tests.quiet_profile import quiet

SAMPLES = 240


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("fit") / "bundle", exits=3, classes=4)


@pytest.fixture(scope="module")
def data(tmp_path_factory, bundle):
    path = tmp_path_factory.mktemp("data") / "heldout.npz"
    samples = make_samples(SAMPLES)
    save_arrays(path, {**samples, "labels": np.random.default_rng(0).integers(0, 4, SAMPLES)})
    return path


def refusal(outcome):
    assert outcome.code == 2
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    return outcome.err


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_fitted_for_a_speedup_and_evaluated(edgeexit, bundle, data, kind):
    fitted = json.loads(edgeexit("fit", bundle.path, "--data", data, "--policy", kind, "--speedup", 1.3, "--json").out)
    assert fitted["policy"]["policy"]["kind"] == kind
    assert fitted["speedup"] >= 1.3
    assert fitted["expected"]["mean_cost"] <= fitted["full_cost"] / 1.3
    evaluated = edgeexit("evaluate", bundle.path, "--data", data, "--json")
    assert evaluated.code == 0
    assert kind in json.loads(evaluated.out)


def test_auto_prints_the_comparison_and_stores_the_chosen_policy(edgeexit, bundle, data):
    shown = edgeexit("fit", bundle.path, "--data", data, "--speedup", 1.3)
    assert shown.code == 0
    [chosen] = [line.split("|")[1].strip() for line in shown.out.splitlines() if "chosen" in line]
    assert chosen == Bundle.open(bundle.path).policy().policy.kind
    assert all(kind in shown.out for kind in KINDS)
    compared = json.loads(edgeexit("fit", bundle.path, "--data", data, "--max-drop", 0.02, "--json").out)["comparison"]
    assert [comparison["kind"] for comparison in compared] == list(KINDS)


def test_beem_can_be_fitted_by_its_rules_with_given_weights(edgeexit, bundle, data):
    fit = ("fit", bundle.path, "--data", data, "--policy", "beem", "--json")
    weights = [
        json.loads(edgeexit(*fit, "--rule", rule, "--weights", text).out)["policy"]["policy"]["weights"]
        for rule, text in (("paired", "cost"), ("error-rate", "0.5,0.6,0.7"))
    ]
    assert weights == [[0.333333, 0.666667, 1.0], [0.5, 0.6, 0.7]]
    paired = json.loads(edgeexit(*fit, "--rule", "paired").out)["expected"]
    assert paired["mean_loss"] <= paired["final_loss"]


def test_a_report_is_written_beside_the_policy(edgeexit, bundle, data, tmp_path):
    page = tmp_path / "fit.html"
    shown = edgeexit("fit", bundle.path, "--data", data, "--policy", "beem", "--max-risk", 0.3, "--report", page)
    assert shown.code == 0
    assert str(page) in shown.out
    assert "plotly" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--budget-ms", 0.1), "edgeexit profile"),
        (("--speedup", 1.1, "--max-drop", 0.1), "--speedup and --max-drop are different goals"),
        (("--speedup", 1.1, "--delta", 0.1), "--delta belongs to --max-risk"),
        (("--speedup", 99), "--speedup 99 cannot be reached: the first exit alone gives"),
        (("--speedup", 0.5), "at least 1"),
        (("--speedup", "nan"), "at least 1"),
        (("--max-drop", 2), "2"),
        (("--max-risk", 0), "risk 0 must be between 0 and 1"),
        (
            ("--rule", "paired", "--policy", "margin"),
            "--rule is not available with --policy margin; policies that have it: beem",
        ),
        (("--rule", "golden", "--policy", "beem"), "--rule 'golden' is unknown; rules of beem: paired, error-rate"),
        (
            ("--weights", "cost", "--policy", "margin"),
            "--weights is not available with --policy margin; policies that have it: beem",
        ),
        (("--weights", "1,2", "--policy", "beem"), "weights [1.0, 2.0] must be 3"),
        (("--weights", "1,2", "--policy", "auto"), "weights [1.0, 2.0] must be 3"),
        (("--weights", "heavy", "--policy", "beem"), "--weights 'heavy'"),
        (("--policy", "psychic"), "--policy: policy kind 'psychic' is unknown; known kinds: confidence, "),
        (("--max-drop", "nan"), "--max-drop: drop nan"),
        (("--max-risk", 2), "--max-risk: risk 2"),
        (("--seed", -1), "--seed"),
        (("--report", "fit.npz"), "--report 'fit.npz' must have the suffix .html"),
        (("--report", ""), "must have the suffix .html"),
        (("--report", "/no/such/folder/fit.html"), "the folder '/no/such/folder' does not exist"),
    ],
)
def test_a_wrong_option_gives_one_line_and_changes_nothing(edgeexit, bundle, data, options, message):
    policy = bundle.path / "policy.json"
    before = policy.read_bytes() if policy.exists() else None
    assert message in refusal(edgeexit("fit", bundle.path, "--data", data, *options))
    assert (policy.read_bytes() if policy.exists() else None) == before


def test_the_highest_speedup_in_the_error_can_be_reached(edgeexit, bundle, data):
    fit = ("fit", bundle.path, "--data", data, "--policy", "confidence", "--json")
    highest = refusal(edgeexit(*fit, "--speedup", 99)).split()[-1]
    assert json.loads(edgeexit(*fit, "--speedup", highest).out)["speedup"] >= float(highest)
    costs = Bundle.open(bundle.path).costs().cumulative
    assert json.loads(edgeexit(*fit, "--speedup", costs[-1] / costs[0]).out)["expected"]["exit_rates"] == [1, 0, 0]


def test_a_report_replaces_neither_a_folder_nor_a_file_of_the_bundle(edgeexit, bundle, data, tmp_path):
    folder = tmp_path / "folder.html"
    folder.mkdir()
    for page, message in (
        (folder, "exists and is not a regular file"),
        (bundle.path / "fit.html", "inside the bundle"),
    ):
        assert message in refusal(edgeexit("fit", bundle.path, "--data", data, "--speedup", 1.2, "--report", page))
    assert not (bundle.path / "fit.html").exists()


def test_the_error_for_data_that_is_not_finite_names_the_sample(edgeexit, bundle, tmp_path):
    samples = make_samples(100)
    samples["x"][5, 0] = np.nan
    save_arrays(tmp_path / "nan.npz", {**samples, "labels": np.arange(100) % 4})
    line = refusal(edgeexit("fit", bundle.path, "--data", tmp_path / "nan.npz", "--speedup", 1.2))
    assert "nan.npz': 'x' has NaN in sample 5" in line


def test_few_samples_give_a_warning(edgeexit, bundle, tmp_path):
    save_arrays(tmp_path / "few.npz", {**make_samples(20), "labels": np.arange(20) % 4})
    few = ("fit", bundle.path, "--data", tmp_path / "few.npz", "--policy", "confidence", "--speedup", 1.2)
    assert "20 samples are few; with fewer than 50, a policy may be worse on new samples" in edgeexit(*few).err
    certified = ("fit", bundle.path, "--data", tmp_path / "few.npz", "--policy", "confidence")
    assert "20 samples cannot certify" in refusal(edgeexit(*certified))  # one line: no warning before the error


def test_labels_of_one_class_are_refused(edgeexit, bundle, tmp_path):
    save_arrays(tmp_path / "one.npz", {**make_samples(100), "labels": np.full(100, 2)})
    line = refusal(edgeexit("fit", bundle.path, "--data", tmp_path / "one.npz", "--speedup", 1.2))
    assert "all 100 labels are class 2" in line


def test_a_budget_in_milliseconds_is_met(edgeexit, bundle, data):
    assert edgeexit("profile", bundle.path, "--duration", 0.2).code == 0
    bundle.write_profile(quiet(bundle.profile()))
    costs = Bundle.open(bundle.path).costs()
    budget = (costs.cumulative[0] + costs.cumulative[-1]) / 2
    fitted = json.loads(
        edgeexit("fit", bundle.path, "--data", data, "--policy", "entropy", "--budget-ms", budget, "--json").out
    )
    assert fitted["cost_unit"] == "ms"
    assert fitted["expected"]["mean_cost"] <= budget
    (bundle.path / "profile.json").unlink()


def test_the_help_lists_every_kind_with_its_weights_and_rules(edgeexit):
    shown = " ".join(edgeexit("fit", "--help").out.replace("│", " ").split())
    assert f"{', '.join(KINDS)}; or auto" in shown
    assert "(beem: paired, error-rate)" in shown
    assert "beem: accuracy, cost" in shown
    assert "beem, paired: no more errors than the final exit" in shown


def test_a_new_kind_is_in_the_help_and_can_be_fitted(edgeexit, bundle, data):
    with new_kind():
        assert "scaled: confidence times the accuracy of the exit" in edgeexit("fit", "--help").out
        fit = ("fit", bundle.path, "--data", data, "--speedup", 1.3, "--json")
        fitted = json.loads(edgeexit(*fit, "--policy", "scaled").out)
        assert fitted["policy"]["policy"]["kind"] == "scaled"
        assert Bundle.open(bundle.path).policy().policy.kind == "scaled"
        assert edgeexit("evaluate", bundle.path, "--data", data).code == 0
        assert [row["kind"] for row in json.loads(edgeexit(*fit).out)["comparison"]] == list(KINDS)
    (bundle.path / "policy.json").unlink()
    assert "'scaled' is unknown" in refusal(edgeexit(*fit, "--policy", "scaled"))


def test_rules_refuse_labels_of_one_class_too(edgeexit, bundle, tmp_path):
    save_arrays(tmp_path / "one.npz", {**make_samples(100), "labels": np.full(100, 2)})
    rule = ("--policy", "beem", "--rule", "paired")
    assert "all 100 labels are class 2" in refusal(edgeexit("fit", bundle.path, "--data", tmp_path / "one.npz", *rule))
