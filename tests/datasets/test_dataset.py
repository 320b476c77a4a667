"""Data files: errors name the array that does not match, with its value."""

import numpy as np
import pytest

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.datasets import IGNORED, counted_mask, load_dataset
from edgeexit.errors import DataError
from edgeexit.npz import save_arrays

SPECS = (
    TensorSpec(name="ids", dtype="int64", shape=("batch", 5)),
    TensorSpec(name="mask", dtype="float32", shape=("batch", 5)),
)
IDS, MASK = np.zeros((3, 5), np.int64), np.ones((3, 5), np.float32)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data.npz"


def test_inputs_and_labels_are_read(path):
    save_arrays(path, {"ids": IDS, "mask": MASK, "labels": np.array([0, 1, 2], np.int32), "other": IDS})
    dataset = load_dataset(path, SPECS, classes=3)
    assert list(dataset.inputs) == ["ids", "mask"]
    assert dataset.labels is not None
    assert dataset.labels.dtype == np.int64
    assert [len(batch["ids"]) for batch in dataset.batches(2)] == [2, 1]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"ids": IDS}, "the array 'mask' is missing; the arrays are 'ids'"),
        ({"ids": IDS, "mask": MASK[:, :4]}, "'mask' has shape 3x4, but the model takes batchx5"),
        ({"ids": IDS, "mask": np.float32(1)}, "'mask' is a scalar, but the model takes batchx5"),
        ({"ids": IDS, "mask": MASK.astype(np.float64)}, "'mask' is float64, but the model takes float32"),
        ({"ids": IDS, "mask": MASK[:2]}, "'mask' has 2 samples, but 'ids' has 3; give both the same number"),
        ({"ids": IDS[:0], "mask": MASK[:0]}, "there are no samples; give at least 1"),
        ({"ids": IDS, "mask": MASK, "labels": np.arange(4)}, r"'labels' has shape \(4,\)"),
        ({"ids": IDS, "mask": MASK, "labels": np.array([0, 1, 9])}, "label 9 is outside the model's classes, 0 to 2"),
        ({"ids": IDS, "mask": MASK, "labels": np.array([0, -1, 1])}, "label -1"),
        ({"ids": IDS, "mask": MASK, "labels": np.ones(3)}, "integers"),
    ],
)
def test_an_array_that_does_not_match_is_named(path, arrays, message):
    save_arrays(path, arrays)
    with pytest.raises(DataError, match=message):
        load_dataset(path, SPECS, classes=3)


def test_missing_labels_are_an_error_only_if_they_are_needed(path):
    save_arrays(path, {"ids": IDS, "mask": MASK})
    assert load_dataset(path, SPECS).labels is None
    with pytest.raises(DataError, match="labels"):
        load_dataset(path, SPECS, need_labels=True)


def test_a_missing_or_broken_file_is_named(path):
    with pytest.raises(DataError, match="does not exist"):
        load_dataset(path, SPECS)
    path.write_bytes(b"not a zip")
    with pytest.raises(DataError, match=r"data\.npz"):
        load_dataset(path, SPECS)


def test_a_file_that_git_lfs_has_not_fetched_is_named(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n")
    with pytest.raises(DataError, match=r"data\.npz' is a Git LFS pointer; run `git lfs pull`"):
        load_dataset(path, SPECS)


def test_pickled_arrays_are_refused(path):
    np.savez(path, ids=np.array([{"code": 1}], dtype=object), mask=MASK)
    with pytest.raises(DataError, match=r"data\.npz"):
        load_dataset(path, SPECS)


@pytest.mark.parametrize("name", ["file", "allow_pickle", "image"])
def test_an_array_may_have_any_name(path, name):
    save_arrays(path, {name: MASK})
    with np.load(path) as arrays:
        assert arrays.files == [name]


def test_a_damaged_compressed_file_raises_a_data_error(path):
    np.savez_compressed(path, ids=np.arange(1000).reshape(200, 5), mask=np.ones((200, 5), np.float32))
    content = bytearray(path.read_bytes())
    content[60:90] = b"\xff" * 30
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"data\.npz"):
        load_dataset(path, SPECS)


IDS_ONLY = SPECS[:1]
MAPS = np.array([[[0, 1], [2, 255]]] * 3)
TAGS = np.array([[0, 1, -100, 2]] * 3)


@pytest.mark.parametrize(
    ("task", "given", "stored"),
    [
        ("classification", np.array([[0], [2], [1]], np.int32), np.array([0, 2, 1])),
        ("segmentation", MAPS.astype(np.uint8), np.where(MAPS == 255, IGNORED, MAPS)),
        ("segmentation", MAPS[:, None], np.where(MAPS == 255, IGNORED, MAPS)),
        ("segmentation", np.where(MAPS == 255, -100, MAPS), np.where(MAPS == 255, IGNORED, MAPS)),
        ("tagging", TAGS, TAGS[:, None]),
        ("tagging", TAGS[:, :, None], TAGS[:, None]),
        ("tagging", TAGS[:, None], TAGS[:, None]),
    ],
)
def test_labels_with_a_dimension_of_size_1_are_accepted_and_ignored_labels_are_marked(path, task, given, stored):
    save_arrays(path, {"ids": IDS, "labels": given})
    dataset = load_dataset(path, IDS_ONLY, task=task, classes=3)
    np.testing.assert_array_equal(dataset.labels, stored)
    np.testing.assert_array_equal(counted_mask(dataset.labels), stored != IGNORED)


def test_label_255_is_a_class_of_a_model_that_has_it(path):
    save_arrays(path, {"ids": IDS, "labels": MAPS})
    dataset = load_dataset(path, IDS_ONLY, task="segmentation", classes=256)
    assert dataset.labels is not None
    assert counted_mask(dataset.labels).all()


@pytest.mark.parametrize(
    ("task", "labels", "message"),
    [
        ("classification", np.eye(3), r"shape \(3, 3\); .*shape \[N\]; if they are one-hot, .*labels.argmax\(1\)$"),
        ("segmentation", np.zeros((3, 3, 4, 5)), r"labels of shape \[N, height, width\]; .*labels.argmax\(1\)$"),
        ("tagging", np.zeros((3, 7, 3)), r"labels of shape \[N, tokens\]; .*labels.argmax\(2\)$"),
        ("tagging", np.zeros(3, np.int64), r"labels of shape \[N, tokens\]$"),
        ("classification", np.zeros((3, 1), np.float32), r"float32; .*\(integers\); .*labels.astype\(numpy.int64\)$"),
        ("classification", np.array([True, False, True]), r"bool; .*labels.astype\(numpy.int64\)$"),
        ("classification", np.array([0.5, 1, 2]), r"float64; it must hold class indices \(integers\)$"),
        ("classification", np.array([0, -100, 1]), "label -100 is outside the model's classes, 0 to 2"),
        ("tagging", np.array([[0, 255]] * 3), "label 255 is outside the model's classes, 0 to 2"),
    ],
)
def test_labels_of_another_form_are_an_error_that_shows_the_conversion(path, task, labels, message):
    save_arrays(path, {"ids": IDS, "labels": labels})
    with pytest.raises(DataError, match=message):
        load_dataset(path, IDS_ONLY, task=task, classes=3)
