"""The report of a fit: its content; it loads nothing from elsewhere; names are escaped."""

import re

import numpy as np
import pytest
from plotly.offline import get_plotlyjs

from edgeexit.fitting import Budget, FitOptions, MapLosses, MaxDrop, MaxRisk, ReadoutDataset, choose_policy, fit_policy
from edgeexit.fitting.outcome import follow
from edgeexit.report import FitReport, write_fit_report
from edgeexit.report.cost_scale import CostScale
from edgeexit.report.outcomes import report_outcomes
from edgeexit.report.tradeoff_curves import cross_fit
from edgeexit.report.tradeoff_figure import draw_tradeoff
from tests.fitting.populations import population

EXITS = ("e0", "e1", "e2", "e3")


def draw(path, dataset, fit, **options):
    """Write a report with two kinds and return its page without plotly's JavaScript."""
    fields = {
        "title": "model",
        "exits": EXITS[: dataset.exits],
        "unit": "ms",
        "kinds": ("confidence", "beem"),
    }
    write_fit_report(path, FitReport(dataset=dataset, fit=fit, **{**fields, **options}))
    page = path.read_text()
    assert get_plotlyjs() in page
    return page.replace(get_plotlyjs(), "").replace("\N{NO-BREAK SPACE}", " ")


@pytest.fixture(scope="module")
def fitted():
    dataset = population(600, seed=1)
    return dataset, fit_policy("confidence", dataset, MaxRisk(risk=0.1))


def test_the_page_contains_charts_goal_and_certificate(tmp_path, fitted):
    dataset, fit = fitted
    page = draw(tmp_path / "report.html", dataset, fit)
    for name in ("tradeoff", "exit-rates", *(f"reliability-{k}" for k in range(4)), "classes"):
        assert f'id="{name}"' in page
    assert "at most 10 % of the predictions differ" in page
    assert f"certified on {fit.certificate.samples} samples" in page
    cost = follow(fit.policy, dataset).mean_cost
    assert f"<td>{cost:.3f} ms</td>" in page
    assert f"<td>{4 / cost:.2f}x</td>" in page
    assert "600 samples of 10 classes with labels" in page


def test_the_page_loads_nothing_from_elsewhere(tmp_path, fitted):
    page = draw(tmp_path / "report.html", *fitted)
    assert not re.findall(r"https?:|//[a-z]|@import|url\(|<link|<iframe|\bsrc=", page)


def test_names_are_escaped(tmp_path, fitted):
    bad = "<script>alert(1)</script>{x}"
    page = draw(tmp_path / "report.html", *fitted, title=bad, exits=(bad, "b", "c", "d"), class_names=(bad,) * 10)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;{x}" in page


def test_the_same_fit_gives_the_same_page(tmp_path, fitted):
    assert draw(tmp_path / "a.html", *fitted) == draw(tmp_path / "b.html", *fitted)


def test_a_page_that_cannot_be_written_is_an_error_and_creates_nothing(tmp_path, fitted):
    path = tmp_path / "missing" / "report.html"
    with pytest.raises(OSError, match=re.escape(str(path))):
        draw(path, *fitted)
    assert not path.parent.exists()


def test_without_labels_the_page_shows_agreement(tmp_path):
    dataset = population(400, seed=1, labels=False)
    page = draw(tmp_path / "report.html", dataset, fit_policy("confidence", dataset, Budget(cost=2.0)), unit="macs")
    assert "Agreement with the final exit over cost" in page
    assert "of full" in page
    assert 'id="reliability-2"' in page
    assert 'id="reliability-3"' not in page, "the final exit would be compared with itself"
    assert "class that the final exit predicts" in page
    assert "The policy is not certified" in page


def test_for_segmentation_there_are_no_reliability_diagrams_and_no_classes(tmp_path):
    source = population(200, seed=1)
    losses = np.clip(1 - source.readouts[:, :, 1], 0, 1)
    dataset = ReadoutDataset(
        readouts=source.readouts,
        costs=source.costs,
        temperatures=source.temperatures,
        maps=MapLosses(disagreement=losses, errors=losses),
    )
    page = draw(tmp_path / "report.html", dataset, fit_policy("confidence", dataset, MaxDrop(drop=0.02)))
    assert page.count("Not available for segmentation") == 2
    assert "Pixel accuracy over latency" in page
    assert 'id="reliability-0"' not in page
    assert 'id="classes"' not in page


def test_fitted_temperatures_show_the_calibration_before_and_after(tmp_path):
    dataset = population(800, seed=1, sharpness=3.0)
    fit = fit_policy("confidence", dataset, Budget(cost=2.0))
    assert fit.policy.temperatures != dataset.temperatures
    page = draw(tmp_path / "report.html", dataset, fit)
    assert "before the fitted temperatures" in page
    assert re.search(r"ECE [\d.]+ % → [\d.]+ %", page)


def test_the_choice_of_auto_is_a_table(tmp_path):
    dataset = population(300, seed=1)
    choice = choose_policy(dataset, Budget(cost=2.0), kinds=("confidence", "margin"), options=FitOptions(folds=2))
    page = draw(tmp_path / "report.html", dataset, choice.fit, choice=choice)
    assert "Comparison of the kinds" in page
    assert f"{choice.fit.policy.kind}, chosen" in page


def test_the_page_explains_why_a_kind_has_no_curve(tmp_path):
    dataset = population(15, seed=1)
    page = draw(tmp_path / "report.html", dataset, fit_policy("confidence", dataset, Budget(cost=2.0)))
    assert "beem has no curve: 15 samples are too few" in page


def test_the_references_are_at_their_cost_and_accuracy(fitted):
    dataset, fit = fitted
    outcomes, scale = report_outcomes(fit.policy, EXITS, dataset), CostScale(unit="macs", full_cost=4.0)
    figure = draw_tradeoff(cross_fit(("confidence", "beem"), dataset), outcomes, scale, "accuracy")
    points = {trace.name: (list(trace.x), list(trace.y)) for trace in figure.data}
    assert points["fitted policy (confidence)"] == ([outcomes.fitted.mean_cost / 4], [1 - outcomes.fitted.mean_loss])
    assert points["oracle"] == ([outcomes.oracle.mean_cost / 4], [1 - outcomes.oracle.mean_loss])
    assert points["always this exit"][0] == [0.25, 0.5, 0.75]
    assert points["full model"] == ([1.0], [1 - outcomes.full_model.mean_loss])
    colours = {trace.line.color for trace in figure.data if trace.name == "beem"}
    assert len(colours) == 1, "a kind has the same colour in both charts"
    formats = {figure.layout.yaxis.tickformat, scale.axis["tickformat"]}
    assert formats == {".2~%"}, "a narrow axis has different labels, such as 94.5% and 95%"
