"""Recording every exit: readouts and raw outputs, in the order of the samples, for any batch size."""

import numpy as np
import pytest

from edgeexit.datasets import Dataset
from edgeexit.errors import DataError
from edgeexit.policies.readout import COLUMNS, TOP1
from edgeexit.runtime import Runner, record, record_outputs
from tests.bundles import make_bundle, make_samples
from tests.recorded_progress import RecordedProgress

EXITS, CLASSES = 3, 4


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    with Runner(make_bundle(tmp_path_factory.mktemp("recorded") / "bundle", exits=EXITS, classes=CLASSES)) as opened:
        yield opened


def test_a_recording_has_the_readouts_of_every_exit_in_the_order_of_the_samples(runner):
    inputs = make_samples(150)
    progress = RecordedProgress()
    recording = record(runner, Dataset(inputs=inputs), all_classes=True, progress=progress)
    assert recording.readouts.shape == (150, EXITS, len(COLUMNS))
    assert recording.logits.shape == (150, EXITS, CLASSES)
    assert (progress.done, progress.total) == (150, 150)
    outputs = runner.infer_every_exit(inputs).outputs
    for k, logits in enumerate(outputs.values()):
        np.testing.assert_array_equal(recording.readouts[:, k, TOP1], logits.argmax(axis=1))
        np.testing.assert_allclose(recording.logits[:, k], logits, atol=1e-5)


def test_a_recording_that_does_not_fit_in_memory_is_refused_with_its_size(runner, monkeypatch):
    inputs = make_samples(150)

    def no_memory(shape, dtype):
        raise MemoryError

    monkeypatch.setattr(np, "empty", no_memory)
    with pytest.raises(DataError, match=r"150 samples at 3 exits .* needs 0.0 GiB, which is not free"):
        record(runner, Dataset(inputs=inputs), all_classes=True)


def test_a_recording_for_classification_has_no_pixel_fractions(runner):
    recording = record(runner, Dataset(inputs=make_samples(3), labels=np.zeros(3, dtype=np.int64)))
    assert recording.disagreement is None
    assert recording.logits is None
    assert recording.errors is None


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_raw_outputs_have_the_names_of_the_exits(runner, batch):
    inputs = make_samples(10)
    progress = RecordedProgress()
    outputs = record_outputs(runner, Dataset(inputs=inputs), batch=batch, progress=progress)
    assert list(outputs) == ["e0", "e1", "e2"]
    for name, logits in runner.infer_every_exit(inputs).outputs.items():
        np.testing.assert_allclose(outputs[name], logits, atol=1e-5)
    assert (progress.done, progress.total) == (10, 10)
