"""Recording and evaluation for segmentation: all kinds of policies, with one prediction per pixel."""

import numpy as np
import pytest
import torch
from torch import nn

from edgeexit.compiler import CompileOptions, compile_bundle
from edgeexit.datasets import IGNORED, Dataset
from edgeexit.errors import DataError
from edgeexit.policies import exit_rates, simulate_exits
from edgeexit.policies.confidence import Confidence
from edgeexit.runtime import Runner, evaluate, record
from edgeexit.runtime import recording as recording_module
from tests.recorded_progress import RecordedProgress
from tests.runtime.policies_of_every_kind import policies_on

SAMPLES, CLASSES, EXITS, HEIGHT, WIDTH = 24, 3, 3, 4, 6


class Segmenter(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(6)
        self.blocks = nn.ModuleList(nn.Conv2d(1 if k == 0 else 4, 4, 3, padding=1) for k in range(EXITS))
        self.heads = nn.ModuleList(nn.Conv2d(4, CLASSES, 1) for _ in range(EXITS))

    def forward(self, image):
        predictions = []
        for block, head in zip(self.blocks, self.heads, strict=True):
            image = torch.relu(block(image))
            predictions.append(4 * head(image))
        return tuple(predictions)


@pytest.fixture(scope="module")
def images():
    strength = np.linspace(0.2, 4, SAMPLES, dtype=np.float32)[:, None, None, None]
    return strength * np.random.default_rng(7).standard_normal((SAMPLES, 1, HEIGHT, WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def runner(tmp_path_factory, images):
    folder = tmp_path_factory.mktemp("maps") / "segmenter"
    with Runner(compile_bundle(Segmenter(), folder, CompileOptions(example={"image": images}))) as opened:
        yield opened


@pytest.fixture(scope="module")
def maps(runner, images):
    """Return the classes of every exit, [N, K, H, W]."""
    outputs = runner.infer_every_exit({"image": images}).outputs
    return np.stack([raw.argmax(axis=1) for raw in outputs.values()], axis=1)


@pytest.fixture(scope="module")
def labels(maps):
    """Return the second exit's maps, with some ignored pixels; in sample 3, all pixels are ignored."""
    labels = maps[:, 1].copy()
    labels[:, 0] = IGNORED
    labels[3] = IGNORED
    return labels


@pytest.mark.parametrize("max_bytes", [2**25, 5 * EXITS * CLASSES * HEIGHT * WIDTH * 4, 1])
def test_a_recording_has_the_same_pixel_fractions_for_any_batch_size(
    runner, images, maps, labels, max_bytes, monkeypatch
):
    monkeypatch.setattr(recording_module, "_MAP_BYTES", max_bytes)
    progress = RecordedProgress()
    found = record(runner, Dataset(inputs={"image": images}, labels=labels), progress=progress)
    assert max(progress.advances) == min(max(max_bytes // (EXITS * CLASSES * HEIGHT * WIDTH * 4), 1), SAMPLES)
    np.testing.assert_allclose(found.disagreement, (maps != maps[:, -1:]).mean(axis=(2, 3)), atol=1e-6)
    wrong = (maps != labels[:, None]) & (labels != IGNORED)[:, None]
    counted = (labels != IGNORED).sum(axis=(1, 2))
    np.testing.assert_allclose(found.errors, wrong.sum(axis=(2, 3)) / np.maximum(counted, 1)[:, None], atol=1e-6)
    assert found.errors.dtype == found.disagreement.dtype == np.float32
    assert not found.errors[3].any(), "no pixel of this sample counts"
    assert found.errors[:, 0].any()
    assert not found.errors[:, 1].any()


def test_without_labels_there_are_no_errors(runner, images):
    found = record(runner, Dataset(inputs={"image": images}))
    assert found.disagreement.shape == (SAMPLES, EXITS)
    assert found.errors is None


def test_every_kind_of_policy_is_evaluated_on_the_map_of_the_exit_taken(runner, images, maps, labels):
    readouts = runner.infer_every_exit({"image": images}, probabilities=True).readouts
    policies = policies_on(readouts)
    found = evaluate(runner, Dataset(inputs={"image": images}, labels=labels), policies)
    for kind, policy in policies.items():
        exits = simulate_exits(policy, readouts)
        taken = maps[np.arange(SAMPLES), exits]
        assert len(set(exits)) > 1, kind
        assert [rate.value for rate in found[kind].exit_rates] == pytest.approx(exit_rates(exits, EXITS)), kind
        assert found[kind].agreement.value == pytest.approx(np.mean(taken == maps[:, -1])), kind
        counts = labels != IGNORED
        assert found[kind].accuracy.value == pytest.approx((taken == labels)[counts].mean()), kind
        assert found[kind].accuracy.low < found[kind].accuracy.value < found[kind].accuracy.high, kind


def test_label_maps_of_another_size_are_refused(runner, images):
    dataset = Dataset(inputs={"image": images}, labels=np.zeros((SAMPLES, 2, 3), dtype=np.int64))
    policy = Confidence(temperatures=(1.0,) * EXITS, thresholds=(0.0,) * (EXITS - 1))
    for measure in (record, lambda runner, dataset: evaluate(runner, dataset, {"early": policy})):
        with pytest.raises(DataError, match="'labels' are maps of 2x3, but the exits' maps are 4x6; resize them"):
            measure(runner, dataset)
