"""Labels from a real agent, through a real broker, into the accuracy and the guarantee of a registered cohort."""

from datetime import datetime, timezone

import pytest
from edgeexit_calibration import explain, register, status

from edgeexit.agent import Agent, AgentConfig
from edgeexit.policies import PolicyDocument
from edgeexit.policies.confidence import Confidence
from edgeexit.runtime import Runner
from edgeexit.wire import BrokerConfig
from tests.bundles import INPUT, make_bundle, make_samples
from tests.calibration.scenario import COHORT, DEVICE, FLEET, until

SAMPLES = 60


def now():
    return datetime.now(timezone.utc)


def test_labels_that_come_at_once_and_later_count_and_samples_without_one_do_not(
    database, broker, serve, key, tmp_path
):
    bundle, inputs = make_bundle(tmp_path / "bundle"), make_samples(SAMPLES)[INPUT]
    policy = Confidence(temperatures=(1.0,) * 3, thresholds=(0.5, 0.5))
    bundle.write_policy(PolicyDocument(bundle=bundle.digest, revision=0, policy=policy))
    cohort = register(
        database, bundle, fleet=FLEET, cohort=COHORT, risk=0.9, delta=0.1, user="ada", loss="regret"
    ).cohort
    with Runner(bundle) as runner:
        final = [int(runner.infer_every_exit({INPUT: row[None]}).readouts[0, -1, 0]) for row in inputs]
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
        feedback_window_s=60,
    )
    predictions = []
    with Agent(bundle, config) as agent:
        until(lambda: agent.active.revision == 1)
        for n, row in enumerate(inputs):
            name, labels = (None, [final[n]]) if n % 3 == 0 else (f"sample-{n}", None) if n % 3 == 1 else (None, None)
            predictions.append(int(agent.infer({INPUT: row[None]}, id=name, labels=labels).predictions[0]))
        for n in range(1, SAMPLES, 3):
            assert agent.feedback(f"sample-{n}", (final[n] + 1) % 4)
        until(lambda: status(database, now=now()).cohorts[0].disagreement.samples == SAMPLES)
    found = status(database, now=now()).cohorts[0].accuracy
    assert found.samples == 2 * SAMPLES / 3
    assert found.full_depth == pytest.approx(1 / 2)
    right = [predictions[n] == final[n] for n in range(0, SAMPLES, 3)]
    right += [predictions[n] == (final[n] + 1) % 4 for n in range(1, SAMPLES, 3)]
    assert found.observed == pytest.approx(sum(right) / len(right))
    until(lambda: explain(database, cohort, now=now()).audits == found.samples)
    explained = explain(database, cohort, now=now())
    assert (explained.loss, explained.accuracy) == ("regret", found)
