"""The page of a fit: what it holds, that it stands alone, and that names stay text."""

import re

import numpy as np
import pytest
from plotly.offline import get_plotlyjs

from edgeexit.fitting import Budget, MapLosses, MaxDrop, MaxRisk, ReadoutDataset, choose_policy, fit_policy
from edgeexit.fitting.outcome import follow
from edgeexit.report import draw_report
from edgeexit.report.curves import cross_fit
from edgeexit.report.marks import oracle, single_exits
from edgeexit.report.tradeoff import Marks, draw_tradeoff
from edgeexit.report.words import Scale
from tests.fitting.populations import population

EXITS = ("e0", "e1", "e2", "e3")


def draw(path, dataset, fit, **options):
    """Draw a report of two kinds and return its page without plotly's JavaScript."""
    names = {
        "title": "model",
        "exits": EXITS[: dataset.exits],
        "unit": "ms",
        "seed": 0,
        "kinds": ("confidence", "beem"),
    }
    draw_report(path, dataset=dataset, fit=fit, **{**names, **options})
    page = path.read_text()
    assert get_plotlyjs() in page
    return page.replace(get_plotlyjs(), "").replace("\N{NO-BREAK SPACE}", " ")


@pytest.fixture(scope="module")
def fitted():
    dataset = population(600, seed=1)
    return dataset, fit_policy("confidence", dataset, MaxRisk(risk=0.1))


def test_the_page_holds_figures_goal_and_certificate(tmp_path, fitted):
    dataset, fit = fitted
    page = draw(tmp_path / "report.html", dataset, fit)
    for name in ("tradeoff", "exit-rates", *(f"reliability-{k}" for k in range(4)), "classes"):
        assert f'id="{name}"' in page
    assert "at most 10 % of the answers differ" in page
    assert f"Certified on {fit.certificate.samples} samples" in page
    cost = follow(fit.policy, dataset).mean_cost
    assert f"<td>{cost:.3f} ms</td>" in page
    assert f"<td>{4 / cost:.2f}x</td>" in page
    assert "600 samples of 10 classes with labels" in page


def test_nothing_is_fetched(tmp_path, fitted):
    page = draw(tmp_path / "report.html", *fitted)
    assert not re.findall(r"https?:|//[a-z]|@import|url\(|<link|<iframe|\bsrc=", page)


def test_names_stay_text(tmp_path, fitted):
    bad = "<script>alert(1)</script>{x}"
    page = draw(tmp_path / "report.html", *fitted, title=bad, exits=(bad, "b", "c", "d"), class_names=(bad,) * 10)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;{x}" in page


def test_the_same_fit_draws_the_same_page(tmp_path, fitted):
    assert draw(tmp_path / "a.html", *fitted) == draw(tmp_path / "b.html", *fitted)


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path, fitted):
    path = tmp_path / "missing" / "report.html"
    with pytest.raises(OSError, match=re.escape(str(path))):
        draw(path, *fitted)
    assert not path.parent.exists()


def test_without_labels_agreement_stands_in(tmp_path):
    dataset = population(400, seed=1, labels=False)
    page = draw(tmp_path / "report.html", dataset, fit_policy("confidence", dataset, Budget(cost=2.0)), unit="macs")
    assert "Agreement with the final exit over cost" in page
    assert "of full" in page
    assert 'id="reliability-2"' in page
    assert 'id="reliability-3"' not in page, "the final exit against itself says nothing"
    assert "class that the final exit answers with" in page
    assert "Nothing is certified" in page


def test_maps_have_no_reliability_and_no_classes(tmp_path):
    source = population(200, seed=1)
    losses = np.clip(1 - source.readouts[:, :, 1], 0, 1)
    dataset = ReadoutDataset(
        readouts=source.readouts,
        costs=source.costs,
        temperatures=source.temperatures,
        maps=MapLosses(disagreement=losses, errors=losses),
    )
    page = draw(tmp_path / "report.html", dataset, fit_policy("confidence", dataset, MaxDrop(drop=0.02)))
    assert page.count("Left out for maps") == 2
    assert "Pixel accuracy over latency" in page
    assert 'id="reliability-0"' not in page
    assert 'id="classes"' not in page


def test_temperatures_show_before_and_after(tmp_path):
    dataset = population(800, seed=1, sharpness=3.0)
    fit = fit_policy("confidence", dataset, Budget(cost=2.0))
    assert fit.policy.temperatures != dataset.temperatures
    page = draw(tmp_path / "report.html", dataset, fit)
    assert "before the fitted temperatures" in page
    assert re.search(r"ECE [\d.]+ % → [\d.]+ %", page)


def test_how_auto_chose_is_a_table(tmp_path):
    dataset = population(300, seed=1)
    choice = choose_policy(dataset, Budget(cost=2.0), kinds=("confidence", "margin"), folds=2)
    page = draw(tmp_path / "report.html", dataset, choice.fit, choice=choice)
    assert "How the kinds compared" in page
    assert f"{choice.fit.policy.kind}, chosen" in page


def test_what_has_no_curve_says_why(tmp_path):
    dataset = population(15, seed=1)
    page = draw(tmp_path / "report.html", dataset, fit_policy("confidence", dataset, Budget(cost=2.0)))
    assert "beem is left out: 15 samples are too few" in page


def test_marks_stand_where_they_belong(fitted):
    dataset, fit = fitted
    chosen = follow(fit.policy, dataset)
    marks = Marks(
        exits=EXITS, singles=single_exits(dataset), oracle=oracle(dataset), chosen=chosen, kind=fit.policy.kind
    )
    figure = draw_tradeoff(cross_fit(("confidence", "beem"), dataset), marks, Scale(unit="macs", whole=4.0), "accuracy")
    points = {trace.name: (list(trace.x), list(trace.y)) for trace in figure.data}
    assert points["fitted policy (confidence)"] == ([chosen.mean_cost / 4], [1 - chosen.mean_loss])
    assert points["oracle"] == ([marks.oracle.mean_cost / 4], [1 - marks.oracle.mean_loss])
    assert points["always this exit"][0] == [0.25, 0.5, 0.75]
    assert points["full model"] == ([1.0], [1 - marks.singles[-1].mean_loss])
    colours = {trace.line.color for trace in figure.data if trace.name == "beem"}
    assert len(colours) == 1, "a kind has one colour in both panels"
