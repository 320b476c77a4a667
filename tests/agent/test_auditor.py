"""Audits: drawn independently of the input, with the right content, and without delaying inference."""

import itertools
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgeexit.agent.auditor import Auditor
from edgeexit.bundle import Bundle
from edgeexit.bundle.manifest import Task
from edgeexit.compiler import CompileOptions, compile_bundle
from edgeexit.policies import KINDS, AuditRule, simulate
from edgeexit.policies.confidence import Confidence
from edgeexit.policies.readout import COLUMNS
from edgeexit.policies.voting import Voting
from edgeexit.runtime import EveryExitInference, Runner
from edgeexit.wire import Audit, AuditedSample, decode, encode
from tests.bundles import INPUT, make_samples
from tests.calibration.map_model import MapModel, map_samples
from tests.policies.policy_examples import make_policy, make_readouts
from tests.runtime.policies_of_every_kind import policies_on

POLICY = Confidence(temperatures=(1.0, 2.0, 1.0), thresholds=(0.4, 0.5))


@pytest.fixture
def runner(bundle: Bundle) -> Iterator[Runner]:
    with Runner(bundle) as opened:
        yield opened


def draw_and_submit(
    auditor: Auditor, inputs: Any, result: Any, *, revision: int, policy: Any, labels: Any = None
) -> None:
    """Draw from a batch after its inference and submit the samples, as the agent does."""
    drawn = auditor.draw(inputs, len(result.exits), labels=labels)
    if drawn is not None:
        auditor.submit(drawn, result, revision=revision, policy=policy)


class Collected:
    """Collects the audited samples that an auditor emits."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, tuple[AuditedSample, ...]]] = []

    def __call__(self, revision: int, samples: tuple[AuditedSample, ...]) -> None:
        self.messages.append((revision, samples))

    @property
    def samples(self) -> list[AuditedSample]:
        return [sample for _, samples in self.messages for sample in samples]


def test_an_audit_contains_the_readouts_of_all_exits_even_if_the_caller_overwrites_its_array(runner: Runner) -> None:
    collected = Collected()
    auditor = Auditor(runner, fraction=1.0, exits=3, emit=collected)
    inputs = make_samples(10)
    expected = runner.infer_every_exit(inputs, temperatures=POLICY.temperatures).readouts
    result = runner.infer(inputs, policy=POLICY)
    draw_and_submit(auditor, inputs, result, revision=4, policy=POLICY, labels=[3, -1, *range(8)])
    inputs[INPUT][:] = 0  # the caller overwrites its array
    auditor.start()
    auditor.stop()
    assert [revision for revision, _ in collected.messages] == [4]
    assert [sample.exit for sample in collected.samples] == result.exits.tolist()
    assert [sample.label for sample in collected.samples] == [3, None, *range(8)]
    found = np.array([[s.top1, s.p1, s.p2, s.entropy] for s in collected.samples], dtype=np.float32)
    np.testing.assert_array_equal(found.transpose(0, 2, 1), expected)


def test_an_audit_contains_the_prediction_if_it_differs_from_the_class_of_the_exit(runner: Runner) -> None:
    """When three exits vote, two exits with the same class outvote the exit at which the sample exits."""
    voting = Voting(temperatures=(1.0,) * 4, thresholds=(None, None, 0.6))
    collected = Collected()
    top1 = np.array([[0, 0, 1, 1], [0, 0, 1, 0], [2, 1, 1, 3], [0, 1, 2, 3]])
    readouts = np.full((4, 4, 4), 0.5, dtype=np.float32)
    readouts[:, :, 0] = top1
    state, predictions = voting.initial_state(4), []
    for k in range(4):
        decision = voting.decide(k, readouts[:, k], state)
        predictions.append(decision.prediction)
        state = decision.state

    class Recorded:
        def infer_every_exit(self, inputs: Any, **options: Any) -> EveryExitInference:
            return EveryExitInference(outputs={}, readouts=readouts, stage_ms=())

    exits = np.array([2, 2, 2, 3])
    given = np.array(predictions)[exits, np.arange(4)].astype(np.int64)
    result = msgspec.structs.replace(_result(4), exits=exits, predictions=given)
    auditor = Auditor(Recorded(), fraction=1.0, exits=4, emit=collected)  # type: ignore[arg-type]
    draw_and_submit(auditor, make_samples(4), result, revision=0, policy=voting, labels=None)
    auditor.start()
    auditor.stop()
    assert [sample.prediction for sample in collected.samples] == [0, 0, None, None]
    assert [sample.disagrees for sample in collected.samples] == [True, False, True, False]


@pytest.mark.parametrize("kind", ["ztw", "eenet"])
def test_an_audit_contains_the_scores_of_a_policy_that_reads_all_probabilities(runner: Runner, kind: str) -> None:
    inputs = make_samples(50)
    temperatures = (1.0, 2.0, 0.5)
    readouts = runner.infer_every_exit(inputs, temperatures=temperatures, probabilities=True).readouts
    policy = msgspec.structs.replace(policies_on(readouts)[kind], temperatures=temperatures)
    expected, collected = simulate(policy, readouts), Collected()
    auditor = Auditor(runner, fraction=1.0, exits=3, emit=collected)
    draw_and_submit(auditor, inputs, runner.infer(inputs, policy=policy), revision=4, policy=policy)
    auditor.start()
    auditor.stop()
    [(_, samples)] = collected.messages
    audit = Audit(start="0" * 16, sequence=1, bundle="a" * 64, cohort="c", revision=4, samples=samples)
    received = decode(encode(audit), Audit).samples
    assert np.array([s.scores for s in received], dtype=np.float32).tobytes() == expected.scores.tobytes()
    np.testing.assert_array_equal([s.predictions or s.top1 for s in received], expected.predictions)
    found = np.array([sample.readouts() for sample in received])
    np.testing.assert_array_equal(found, readouts[:, :, : len(COLUMNS)])


@pytest.mark.parametrize("kind", sorted(kind for kind in KINDS if not KINDS[kind].reads_probabilities))
def test_audits_of_other_policies_have_no_scores(runner: Runner, kind: str) -> None:
    inputs, collected = make_samples(5), Collected()
    policy = policies_on(runner.infer_every_exit(inputs, probabilities=True).readouts)[kind]
    auditor = Auditor(runner, fraction=1.0, exits=3, emit=collected)
    draw_and_submit(auditor, inputs, runner.infer(inputs, policy=policy), revision=4, policy=policy)
    auditor.start()
    auditor.stop()
    assert all(b"scores" not in msgspec.json.encode(sample) for sample in collected.samples)
    assert all(b"predictions" not in msgspec.json.encode(sample) for sample in collected.samples)
    assert len(collected.samples) == 5


def test_readouts_are_encoded_bit_for_bit(runner: Runner) -> None:
    readouts = runner.infer_every_exit(make_samples(200), temperatures=POLICY.temperatures).readouts
    samples = tuple(AuditedSample.from_readout(readout, exit_index=0) for readout in readouts)
    audit = Audit(start="0" * 16, sequence=1, bundle="a" * 64, cohort="c", revision=0, samples=samples)
    back = decode(encode(audit), Audit)
    columns = [[getattr(sample, column) for column in COLUMNS] for sample in back.samples]
    np.testing.assert_array_equal(np.array(columns, dtype=np.float32).transpose(0, 2, 1), readouts)


def test_which_samples_are_drawn_depends_only_on_the_random_numbers(runner: Runner) -> None:
    drawn: list[float] = []

    def draw() -> float:
        drawn.append((len(drawn) * 7 % 100) / 100)
        return drawn[-1]

    collected = Collected()
    auditor = Auditor(runner, fraction=0.1, exits=3, emit=collected, random_source=draw)
    auditor.start()
    inputs = make_samples(100)
    for start in range(0, 100, 10):
        batch = {INPUT: inputs[INPUT][start : start + 10]}
        draw_and_submit(
            auditor,
            batch,
            runner.infer(batch, policy=POLICY),
            revision=0,
            policy=POLICY,
            labels=list(range(start, start + 10)),
        )
    auditor.stop()
    assert len(drawn) == 100
    assert [sample.label for sample in collected.samples] == [n for n, value in enumerate(drawn) if value < 0.1]


def test_a_rule_of_the_policy_document_raises_the_fraction_up_to_the_limit_and_a_cut_is_logged_once(
    runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    values = [n / 100 for n in range(100)]

    def drawn(auditor: Auditor, rule: AuditRule | None) -> int:
        samples = auditor.draw(make_samples(100), 100, rule=rule)
        return 0 if samples is None else len(samples.rows)

    def new_auditor(fraction: float) -> Auditor:
        draw = itertools.cycle(values).__next__
        return Auditor(runner, fraction=fraction, max_fraction=0.4, exits=3, emit=Collected(), random_source=draw)

    caplog.set_level(logging.INFO)
    auditor = new_auditor(0.1)
    assert [drawn(auditor, rule) for rule in (None, AuditRule(fraction=0.3), AuditRule(fraction=0.05))] == [10, 30, 10]
    assert not caplog.records
    assert [drawn(auditor, AuditRule(fraction=0.9)) for _ in range(3)] == [40] * 3
    [record] = caplog.records
    assert "asks for audits of 90 % of the samples" in record.getMessage()
    assert "allow 40 %" in record.getMessage()
    assert drawn(new_auditor(0.0), AuditRule(fraction=0.9)) == 0, "a device without audits"


class SlowRunner:
    """A runner whose full-depth runs block until `resume` is set."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.started = threading.Event()
        self.resume = threading.Event()

    def infer_every_exit(self, inputs: Any, **options: Any) -> EveryExitInference:
        self.started.set()
        self.resume.wait(10)
        return self.runner.infer_every_exit(inputs, **options)


def test_submitting_never_blocks_and_skips_samples_if_the_queue_is_full(runner: Runner) -> None:
    slow, collected = SlowRunner(runner), Collected()
    auditor = Auditor(slow, fraction=1.0, exits=3, emit=collected)  # type: ignore[arg-type]
    auditor.start()
    one = make_samples(1)
    result = runner.infer(one, policy=POLICY)
    for _ in range(200):
        draw_and_submit(auditor, one, result, revision=0, policy=POLICY, labels=None)
    assert slow.started.wait(5)
    assert auditor.skipped >= 200 - 66
    slow.resume.set()
    auditor.stop()
    assert len(collected.samples) + auditor.skipped == 200


def test_stopping_does_not_wait_for_an_audit_that_hangs(runner: Runner) -> None:
    slow = SlowRunner(runner)
    auditor = Auditor(slow, fraction=1.0, exits=3, emit=Collected())  # type: ignore[arg-type]
    auditor.start()
    one = make_samples(1)
    draw_and_submit(auditor, one, runner.infer(one, policy=POLICY), revision=0, policy=POLICY, labels=None)
    auditor.stop(timeout_s=0.1)
    slow.resume.set()


def test_failed_audits_are_skipped_and_later_samples_are_audited(
    runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    collected = Collected()
    auditor = Auditor(runner, fraction=1.0, exits=3, emit=collected)
    auditor.start()
    good, wrong = make_samples(2), {INPUT: np.zeros((2, 5), dtype=np.float32)}
    broken = {INPUT: np.full((2, 8), np.nan, dtype=np.float32)}
    result = runner.infer(good, policy=POLICY)
    for inputs in (wrong, broken, good):
        draw_and_submit(auditor, inputs, result, revision=0, policy=POLICY, labels=None)
    auditor.stop()
    assert len(collected.samples) == 2
    assert auditor.skipped == 4
    assert "audit failed" in caplog.text


def test_audits_of_a_model_with_many_exits_fit_into_messages() -> None:
    readout = np.full((64, 4), 0.123456789, dtype=np.float32)
    collected = Collected()

    class Deep:
        def infer_every_exit(self, inputs: Any, **options: Any) -> EveryExitInference:
            return EveryExitInference(outputs={}, readouts=np.stack([readout] * len(inputs[INPUT])), stage_ms=())

    auditor = Auditor(Deep(), fraction=1.0, exits=64, emit=collected)  # type: ignore[arg-type]
    deep = Confidence(temperatures=(1.0,) * 64, thresholds=(None,) * 63)
    result = msgspec.structs.replace(_result(40), exits=np.zeros(40, dtype=np.int64))
    draw_and_submit(auditor, make_samples(40), result, revision=0, policy=deep, labels=None)
    auditor.start()
    auditor.stop()
    assert len(collected.samples) == 40
    for revision, samples in collected.messages:
        encode(
            Audit(start="0" * 16, sequence=1, bundle="a" * 64, cohort="c", revision=revision, samples=samples)
        )  # would raise


@pytest.mark.parametrize("kind", ["ztw", "eenet"])
def test_messages_with_scores_are_at_most_half_as_large_again_as_without(kind: str) -> None:
    readouts, collected = make_readouts(40, exits=64, classes=100), Collected()

    class Deep:
        def infer_every_exit(self, inputs: Any, **options: Any) -> EveryExitInference:
            return EveryExitInference(outputs={}, readouts=readouts, stage_ms=())

    auditor = Auditor(Deep(), fraction=1.0, exits=64, emit=collected)  # type: ignore[arg-type]
    result = msgspec.structs.replace(_result(40), exits=np.zeros(40, dtype=np.int64))
    policy = make_policy(kind, exits=64, classes=100)
    draw_and_submit(auditor, make_samples(40), result, revision=0, policy=policy, labels=None)
    auditor.start()
    auditor.stop()
    with_scores = [len(msgspec.json.encode(samples)) for _, samples in collected.messages]
    without = [
        len(msgspec.json.encode([msgspec.structs.replace(sample, scores=None, predictions=None) for sample in samples]))
        for _, samples in collected.messages
    ]
    assert max(with_scores) < 100_000
    assert all(size < 1.5 * plain for size, plain in zip(with_scores, without, strict=True))
    assert sum(len(samples) for _, samples in collected.messages) == 40


def _result(count: int) -> Any:
    from edgeexit.runtime import Inference  # noqa: PLC0415

    nothing = np.zeros(count)
    return Inference(
        predictions=nothing,
        exits=nothing,
        outputs=nothing,
        readouts=nothing,
        scores=nothing,
        latency_ms=nothing,
        stage_ms=(),
        decide_ms=(),
    )


@pytest.mark.parametrize("task", ["segmentation", "tagging"])
def test_an_audit_of_maps_contains_the_fraction_of_them_that_differs_at_each_exit(tmp_path: Path, task: Task) -> None:
    inputs, collected = map_samples(30, 5, task), Collected()
    options = CompileOptions(example=map_samples(4, 0, task), task=task)
    with Runner(compile_bundle(MapModel(task), tmp_path / "maps", options)) as runner:
        outputs = runner.infer_every_exit(inputs).outputs
        policy = Confidence(temperatures=(1.0,) * 3, thresholds=(0.9, 0.95))
        result = runner.infer(inputs, policy=policy)
        auditor = Auditor(runner, fraction=1.0, exits=3, maps=runner.manifest.has_maps, emit=collected)
        draw_and_submit(auditor, inputs, result, revision=4, policy=policy)
        auditor.start()
        auditor.stop()
    maps = np.stack([raw.argmax(axis=1).reshape(30, -1) for raw in outputs.values()], axis=1)
    expected = (maps != maps[:, -1:]).mean(axis=2).astype(np.float32)
    audit = Audit(start="0" * 16, sequence=1, bundle="a" * 64, cohort="c", revision=4, samples=tuple(collected.samples))
    received = decode(encode(audit), Audit).samples
    np.testing.assert_array_equal(np.array([sample.differing for sample in received], np.float32), expected)
    exited = np.array([sample.exit for sample in received])
    np.testing.assert_array_equal(exited, result.exits)
    assert len(set(exited.tolist())) > 1
    assert [sample.disagrees for sample in received] == (expected[np.arange(30), exited] > 0).tolist()
