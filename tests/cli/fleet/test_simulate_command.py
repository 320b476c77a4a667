"""`edgeexit fleet simulate` as a user runs it."""

import json

import pytest
from edgeexit_calibration.store.tables import SeriesRow
from sqlalchemy import delete

from tests.calibration.database_kinds import ON_SQLITE
from tests.calibration.scenario import FLEET

pytestmark = ON_SQLITE
SMALL = ("--devices", 6, "--shards", 1, "--rate", 100, "--reports", 30, "--fleet", FLEET)


@pytest.fixture
def simulate(edgeexit, bundle, data, broker, database_url):
    def run(*arguments):
        where = ("--bundle", bundle.path, "--data", data, "--broker", broker.url)
        return edgeexit("fleet", "simulate", *where, *SMALL, *arguments)

    return run


def test_it_prints_what_was_sent_and_that_nothing_differs(serve, simulate, database_url):
    serve()
    outcome = simulate("--database", database_url)
    assert outcome.code == 0
    assert "6 on 6 connections" in outcome.out
    assert "difference to the database: 0 (nothing lost, nothing double, nothing wrong)" in outcome.out


def test_a_difference_is_named_and_the_exit_code_is_1(serve, simulate, database, database_url, monkeypatch):
    monkeypatch.setattr("edgeexit.simulate.run._CATCH_UP_S", 2.0)
    from edgeexit_calibration.views import stored_totals  # noqa: PLC0415 - its function is replaced

    read = stored_totals.stored_fleet

    def without_series(store, fleet):
        with database.writing() as session:
            session.execute(delete(SeriesRow))
        return read(store, fleet)

    monkeypatch.setattr(stored_totals, "stored_fleet", without_series)
    serve()
    outcome = simulate("--database", database_url)
    assert outcome.code == 1
    assert "lost, report: 6, e.g." in outcome.out
    assert "s0/sim-00000: start " in outcome.out
    assert "was acknowledged and is not stored" in outcome.out


def test_json_has_every_figure(serve, simulate, database_url):
    serve()
    outcome = simulate("--database", database_url, "--json", "--all-events")
    assert outcome.code == 0
    figures = json.loads(outcome.out)
    assert figures["reports"] == 30
    assert figures["database"]["differences"] == 0
    assert len(figures["malicious"]) == 6


def test_without_a_calibrator_it_says_what_may_be_missing(simulate):
    outcome = simulate("--settle", "0.2s")
    assert outcome.code == 0
    assert f"nothing was acknowledged; does a calibrator of fleet '{FLEET}' run at this broker?" in outcome.err
    assert "next: repeat it with --database" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--duration", "soon"), "--duration 'soon' is not a time; write e.g. 60s, 5m or 1h"),
        (("--interval", "0s"), "--interval and --resend must be above 0 s"),
        (("--drift", "up@3s"), "--drift 'up@3s' must be KIND[:FRACTION]@TIME"),
        (("--fleet", "a b"), "fleet 'a b' must be 1 to 64 characters"),
        (("--bundle", "nothing"), "'nothing' is not a bundle"),
        (("--data", "nothing.npz"), "nothing.npz"),
        (("--database", "nothing.sqlite"), "database 'nothing.sqlite' does not exist"),
        (("--broker", "mqtt://127.0.0.1:1"), "broker 'mqtt://127.0.0.1:1' is not reachable"),
        (("--broker", "ws://127.0.0.1:1"), "simulated devices connect by mqtt:// or mqtts://"),
        (("--trusted-key", "nothing.pub"), "nothing.pub"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(simulate, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    outcome = simulate(*arguments)
    assert outcome.code == 2
    (line,) = [line for line in outcome.err.splitlines() if line.startswith("error:")]
    assert message in line
