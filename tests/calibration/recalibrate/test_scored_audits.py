"""Audits of policies that read the probabilities of all classes: from a real agent to the losses of any thresholds."""

from datetime import datetime, timezone

import msgspec
import numpy as np
import pytest
from edgeexit_calibration import register
from edgeexit_calibration.ingest.uplink import Uplink
from edgeexit_calibration.store.stored_scores import scores_from_bytes
from edgeexit_calibration.store.tables import AuditedSampleRow
from sqlalchemy import select

from edgeexit.agent import Agent, AgentConfig
from edgeexit.policies import PolicyDocument, simulate
from edgeexit.runtime import Runner
from edgeexit.wire import BrokerConfig
from tests.bundles import INPUT, make_bundle, make_samples
from tests.calibration.scenario import COHORT, DEVICE, FLEET, audits_of, store_uplinks, until
from tests.runtime.policies_of_every_kind import policies_on

NOW = datetime(2025, 1, 1, tzinfo=timezone.utc)
KINDS = pytest.mark.parametrize("kind", ["ztw", "eenet"])
TEMPERATURES = (1.0, 2.0, 0.5)
SAMPLES = 40


def rows_of(database):
    with database.reading() as session:
        return session.scalars(select(AuditedSampleRow).order_by(AuditedSampleRow.id)).all()


def readouts_of_each(bundle, inputs):
    """Return the readouts [N, 3, 4 + C] of samples that run alone, as the agent of this test runs them."""
    with Runner(bundle) as runner:
        return np.concatenate(
            [
                runner.infer_every_exit({INPUT: row[None]}, temperatures=TEMPERATURES, probabilities=True).readouts
                for row in inputs[INPUT]
            ]
        )


@KINDS
def test_the_scores_that_an_agent_sends_are_stored_to_the_bit(database, broker, serve, key, tmp_path, kind):
    bundle, inputs = make_bundle(tmp_path / "bundle"), make_samples(SAMPLES)
    readouts = readouts_of_each(bundle, inputs)
    policy = msgspec.structs.replace(policies_on(readouts)[kind], temperatures=TEMPERATURES)
    bundle.write_policy(PolicyDocument(bundle=bundle.digest, revision=0, policy=policy))
    register(database, bundle, fleet=FLEET, cohort=COHORT, risk=0.99, delta=0.1, user="ada")
    serve()
    config = AgentConfig(
        fleet=FLEET,
        shard=DEVICE.shard,
        device=DEVICE.device,
        cohort=COHORT,
        state_dir=tmp_path / "state",
        trusted_keys=(key.with_suffix(".pub"),),
        broker=BrokerConfig(url=broker.url),
        audit_fraction=1.0,
        report_interval_s=0.2,
    )
    with Agent(bundle, config) as agent:
        until(lambda: agent.active.revision == 1)
        for row in inputs[INPUT]:
            agent.infer({INPUT: row[None]})
        until(lambda: len(rows_of(database)) == SAMPLES)
    rows = rows_of(database)
    stored = scores_from_bytes(b"".join(row.scores for row in rows), 3)
    expected = simulate(policy, readouts)
    assert stored.scores.tobytes() == expected.scores.tobytes()
    np.testing.assert_array_equal(stored.predictions, expected.predictions)
    assert {row.revision for row in rows} == {1}
    assert len({row.exit for row in rows}) > 1


def test_an_audit_without_scores_is_stored_without_scores(database, bundle):
    [audit] = audits_of(bundle, 3)
    scored = msgspec.structs.replace(audit.samples[1], scores=(0.5, -1.5, 0.25))
    voted = msgspec.structs.replace(audit.samples[2], scores=(0.5, -1.5, 0.25), predictions=(3, 2, 1))
    audit = msgspec.structs.replace(audit, samples=(audit.samples[0], scored, voted))
    with database.writing() as session:
        store_uplinks(session, [Uplink(DEVICE, audit)], now=NOW)
    none, with_classes, with_predictions = rows_of(database)
    assert none.scores is None
    for row, classes in ((with_classes, scored.top1), (with_predictions, (3, 2, 1))):
        [scores], [predictions] = scores_from_bytes(row.scores, 3)
        assert scores.tolist() == [0.5, -1.5, 0.25]
        assert predictions.tolist() == list(classes)
