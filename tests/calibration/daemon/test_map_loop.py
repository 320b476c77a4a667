"""The loop for models that predict maps: a real agent, a broker, the service, an alarm, and a bolder policy again."""

import time
from itertools import count

import msgspec
import numpy as np
import pytest
from edgeexit_calibration import devices, disagreement, policy_history, register
from edgeexit_calibration.store.tables import AuditedSampleRow
from sqlalchemy import func, select

from edgeexit.agent import Agent, AgentConfig
from edgeexit.runtime import Runner, differing_fractions
from edgeexit.wire import BrokerConfig
from tests.calibration.map_model import EXITS, MAP_DELTA, MAP_RISK, map_bundle, map_samples
from tests.calibration.scenario import COHORT, DEVICE, FLEET, until

BATCH = 40


@pytest.mark.parametrize(
    ("task", "kind", "unit"), [("segmentation", "confidence", "pixels"), ("tagging", "ztw", "tokens")]
)
def test_a_policy_for_maps_steps_back_after_a_drift_and_becomes_bolder_again(
    database, broker, serve, key, tmp_path, task, kind, unit
):
    bundle = map_bundle(tmp_path / "maps", task, kind)
    address = register(database, bundle, fleet=FLEET, cohort=COHORT, risk=MAP_RISK, delta=MAP_DELTA, user="ada").cohort
    serve()
    config = AgentConfig(
        fleet=FLEET, shard=DEVICE.shard, device=DEVICE.device, cohort=COHORT, state_dir=tmp_path / "state",
        trusted_keys=(key.with_suffix(".pub"),), broker=BrokerConfig(url=broker.url), audit_fraction=1.0,
        report_interval_s=0.2, resend_s=1.0,
    )  # fmt: skip

    def reasons():
        return [view.reason for view in policy_history(database, address)]

    with Agent(bundle, config) as agent:
        until(lambda: [device.revision for device in devices(database, fleet=FLEET)] == [1])
        seeds, deadline = count(10), time.monotonic() + 120
        while not any("stepped back" in reason for reason in reasons()) or "bolder" not in reasons()[-1]:
            assert time.monotonic() < deadline, reasons()
            agent.infer(map_samples(BATCH, next(seeds), task, drift=3.0))
            time.sleep(0.05)
    newest = policy_history(database, address)[-1]
    assert newest.certificate.risk == MAP_RISK
    with Runner(bundle) as runner:
        inputs = map_samples(2000, 9, task, drift=3.0)
        policy = msgspec.structs.replace(bundle.policy().policy, thresholds=newest.thresholds)
        exits = runner.infer(inputs, policy=policy).exits
        differing = differing_fractions(runner.infer_every_exit(inputs).outputs)
    assert (exits < EXITS - 1).any()
    assert differing[np.arange(2000), exits].mean() <= MAP_RISK < differing[:, 0].mean()
    first = disagreement(database, address, revision=1)
    assert first.unit == unit
    assert first.low > MAP_RISK
    with database.reading() as session:
        rows = session.scalars(select(AuditedSampleRow)).all()
        assert all(len(row.differing) == 4 * EXITS for row in rows)
    until(lambda: from_samples(database, address) == pytest.approx(disagreement(database, address).observed))


def from_samples(database, address):
    """Return the mean fraction that differs, from the audited samples themselves; the last ones may be on their way."""
    with database.reading() as session:
        newest = session.scalar(select(func.max(AuditedSampleRow.id)))
    return disagreement(database, address, after=0, until=newest).observed
