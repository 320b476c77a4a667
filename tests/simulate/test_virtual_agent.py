"""A simulated agent sends what a real agent would send after the same inferences."""

import msgspec
import numpy as np
import pytest

from edgeexit.agent.counters import Counters
from edgeexit.fitting import ReadoutDataset
from edgeexit.latency import bin_of
from edgeexit.policies import AuditRule, PolicyDocument, Scope
from edgeexit.policies.beem import Beem
from edgeexit.policies.confidence import Confidence
from edgeexit.policies.simulation import simulate, simulate_exits
from edgeexit.policies.voting import Voting
from edgeexit.runtime import Inference
from edgeexit.simulate.counter_table import CounterTable
from edgeexit.simulate.ledger import Ledger
from edgeexit.simulate.member import identity_of
from edgeexit.simulate.sample_book import SampleBook
from edgeexit.simulate.virtual_agent import VirtualAgent
from edgeexit.wire import AuditedSample, DeviceAddress, Report, State, decode, up_topic
from edgeexit.wire.audit_signing import verify_audit
from edgeexit.wire.counter_array import counts_of_exits, exit_counters
from tests.calibration.scenario import EXITS, readouts_of
from tests.policies.policy_examples import make_policy

ADDRESS = DeviceAddress("shop", "s0", "sim-1")
BUNDLE = "b" * 64
POLICIES = [
    Confidence(temperatures=(1.0,) * EXITS, thresholds=(0.7, 0.8)),
    Voting(temperatures=(1.0,) * EXITS, thresholds=(None, 0.9)),
    Beem(temperatures=(1.0,) * EXITS, thresholds=(0.6, 1.2), weights=(1.0, 1.0, 1.0)),
]


def dataset_of(readouts):
    return ReadoutDataset(readouts=readouts, costs=(1.0, 2.0, 3.0), temperatures=(1.0,) * EXITS)


def agent_of(policy=POLICIES[0], readouts=None, *, audit_fraction=0.01):
    book = SampleBook(dataset_of(readouts_of(200) if readouts is None else readouts))
    table = CounterTable(3, EXITS)
    sent = Ledger().open_start(ADDRESS, "0" * 16)
    agent = VirtualAgent(
        sent, 1, table, bundle=BUNDLE, cohort="cameras", key=identity_of(0, "sim-1"), shipped=book.under(policy),
        audit_fraction=audit_fraction, started=100.0,
    )  # fmt: skip
    return agent, table, book


def run(policy, readouts, drawn, latency_ms):
    """Return what the real counters say after these samples."""
    scores, predictions = simulate(policy, readouts[drawn])
    limits = [np.inf if t is None else t for t in policy.thresholds]
    exits = np.array(
        [next((k for k in range(EXITS - 1) if row[k] >= np.float32(limits[k])), EXITS - 1) for row in scores]
    )
    outputs = np.zeros((len(exits), 4), np.float32)
    result = Inference(
        predictions=predictions[np.arange(len(exits)), exits], exits=exits, outputs=outputs,
        readouts=readouts[drawn][np.arange(len(exits)), exits], scores=scores, latency_ms=latency_ms, stage_ms=(),
        decide_ms=(),
    )  # fmt: skip
    counters = Counters(EXITS)
    counters.record(0, policy, result)
    return counters.snapshot(0)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.kind)
def test_the_same_inferences_give_the_same_report_as_those_of_a_real_agent(policy):
    readouts, random = readouts_of(200, trust=0.5), np.random.default_rng(3)
    agent, table, book = agent_of(policy, readouts)
    samples = book.under(policy)
    drawn, latency_ms = random.integers(0, 200, (1, 60)), random.uniform(0.005, 20_000, (1, 60))
    other = random.integers(0, 200, (1, 60))
    table.add(
        np.array([1, 2]),
        np.concatenate([samples.exits[drawn], samples.exits[other]]),
        np.concatenate([samples.score_bins[drawn], samples.score_bins[other]]),
        bin_of(np.concatenate([latency_ms, latency_ms])),
    )
    report = decode(agent.report(table.counts[1].tolist(), 107.5).payload, Report)
    assert report.exits == run(policy, readouts, drawn[0], latency_ms[0]).exits
    assert (report.start, report.sequence, report.revision, report.uptime_s) == ("0" * 16, 1, 0, 7.5)
    assert not table.counts[0].any()


def test_a_score_that_is_not_finite_is_in_the_lowest_bin_and_not_audited():
    readouts = readouts_of(4)
    readouts[2, 0] = np.nan
    agent, _, book = agent_of(readouts=readouts)
    samples = book.under(POLICIES[0])
    assert samples.score_bins[2, 0] == 0
    agent.draw_audit(2)
    assert agent.audit() is None


def test_an_audit_is_signed_and_has_the_readouts_and_the_exit_of_each_sample():
    readouts = readouts_of(200)
    agent, _, book = agent_of(readouts=readouts)
    for sample in (3, 3, 17):
        agent.draw_audit(sample)
    message = agent.audit()
    key, audit = verify_audit(message.payload, topic=up_topic(ADDRESS, "audit"))
    exits = book.under(POLICIES[0]).exits
    assert key == decode(agent.state(101.0), State).key
    assert audit.samples == tuple(AuditedSample.from_readout(readouts[n], exit_index=int(exits[n])) for n in (3, 3, 17))
    assert (message.samples, message.exits) == (3, int(exits[[3, 3, 17]].sum()))
    assert agent.audit() is None


@pytest.mark.parametrize("kind", ["ztw", "eenet"])
def test_an_audit_has_the_scores_of_a_policy_that_reads_all_probabilities(kind):
    logits = np.random.default_rng(5).normal(0, 2, (200, EXITS, 4))
    dataset = ReadoutDataset.from_logits(logits, costs=(1.0, 2.0, 3.0))
    policy = make_policy(kind, exits=EXITS)
    [wide] = dataset.readout_blocks()
    expected = simulate(policy, wide)
    samples = SampleBook(dataset).under(policy)
    audited = [msgspec.json.decode(samples.audited(n), type=AuditedSample) for n in range(200)]
    assert np.array([sample.scores for sample in audited], np.float32).tobytes() == expected.scores.tobytes()
    np.testing.assert_array_equal([one.predictions or one.top1 for one in audited], expected.predictions)
    assert [sample.exit for sample in audited] == simulate_exits(policy, wide).tolist()


def test_counters_of_another_revision_start_at_zero_and_return_with_it():
    agent, table, book = agent_of()
    table.counts[1] = 7
    agent.apply(4, book.under(POLICIES[1]))
    assert not table.counts[1].any()
    table.counts[1] = 2
    agent.apply(0, book.under(POLICIES[0]))
    assert (table.counts[1] == 7).all()
    agent.apply(4, book.under(POLICIES[1]))
    assert (table.counts[1] == 2).all()


def test_it_audits_as_many_samples_as_the_document_in_force_asks_for_within_the_default_limit_of_agents():
    agent, *_ = agent_of(audit_fraction=0.02)
    assert (agent.audit_fraction, decode(agent.state(101.0), State).audit_fraction) == (0.02, 0.02)
    for revision, (rule, expected) in enumerate([(0.1, 0.1), (0.9, 0.2), (0.001, 0.02), (None, 0.02)], start=1):
        document = PolicyDocument(
            bundle=BUNDLE,
            revision=revision,
            policy=POLICIES[0],
            scope=Scope(fleet="shop", cohort="cameras"),
            audit=None if rule is None else AuditRule(fraction=rule),
        )
        assert agent.receive(document)
        assert agent.audit_fraction == expected
    assert decode(agent.state(101.0), State).audit_fraction == 0.02


def test_a_restart_begins_with_number_1_and_counters_of_zero_and_keeps_the_policy():
    agent, table, book = agent_of()
    agent.apply(4, book.under(POLICIES[1]))
    table.counts[1] = 7
    agent.report(table.counts[1].tolist(), 101.0)
    agent.restart(Ledger().open_start(ADDRESS, "1" * 16), 110.0)
    report = decode(agent.report(table.counts[1].tolist(), 111.0).payload, Report)
    assert (report.start, report.sequence, report.revision, report.uptime_s) == ("1" * 16, 1, 4, 1.0)
    assert counts_of_exits(report.exits, report.failed).sum() == 0


def test_counters_of_exits_are_the_row_again():
    row = np.arange(62 * EXITS + 1)
    assert (counts_of_exits(exit_counters(row.tolist()), int(row[-1])) == row).all()
