"""Labels that do not count: the defaults, declared ones, their number, and labels that nobody declared."""

import numpy as np
import pytest

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.datasets import IGNORED, as_dataset
from edgeexit.errors import DataError

SPECS = (TensorSpec(name="x", dtype="float32", shape=("batch", 2)),)
X = np.arange(6, dtype=np.float32).reshape(3, 2)
MAPS = np.array([[[0, 1], [255, 255]], [[2, 255], [0, 0]], [[1, 1], [1, 1]]])
TAGS = np.array([[0, 1, -100], [1, -100, -100], [2, 2, 2]])


def read(labels, task, classes, **options):
    return as_dataset({"x": X, "labels": labels}, SPECS, task=task, classes=classes, where="it", **options)


@pytest.mark.parametrize(
    ("classes", "ignore_labels", "counts"),
    [
        (19, None, {255: 3}),
        (255, None, {255: 3}),
        (256, None, None),
        (300, None, None),
        (300, (255,), {255: 3}),
        (256, (), None),
        (19, (255, -1), {255: 3}),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_pixels_of_class_255_are_ignored_only_where_that_is_declared(classes, ignore_labels, counts, dtype):
    given = MAPS.astype(dtype)
    found = read(given, "segmentation", classes, ignore_labels=ignore_labels)
    np.testing.assert_array_equal(found.labels, MAPS if counts is None else np.where(MAPS == 255, IGNORED, MAPS))
    assert (found.ignored and found.ignored.counts) == counts
    np.testing.assert_array_equal(given, MAPS)  # the caller's array is not changed


def test_the_number_and_percentage_of_ignored_labels_is_one_line():
    assert str(read(MAPS, "segmentation", 3).ignored) == (
        "ignored label 255: 3 of 12 pixels (25 %) do not count in the accuracy"
    )
    assert str(read(TAGS, "tagging", 3).ignored) == (
        "ignored label -100: 3 of 9 tokens (33.3 %) do not count in the accuracy"
    )
    both = read(np.where(MAPS == 2, -100, MAPS), "segmentation", 3).ignored
    assert str(both).startswith("ignored labels -100, 255: 4 of 12 pixels")
    assert read(np.clip(MAPS, 0, 2), "segmentation", 3).ignored is None


def test_in_classification_samples_with_an_ignored_label_are_left_out():
    found = read(np.array([2, -1, 0]), "classification", 3, ignore_labels=(-1,))
    np.testing.assert_array_equal(found.labels, [2, 0])
    np.testing.assert_array_equal(found.inputs["x"], X[[0, 2]])
    assert str(found.ignored) == "ignored label -1: 1 of 3 samples (33.3 %) are left out"
    with pytest.raises(DataError, match=r"label -100 is outside .* in 1 of 3 samples; .* add --ignore-label -100"):
        read(np.array([2, -100, 0]), "classification", 3)


@pytest.mark.parametrize(
    ("task", "labels"), [("segmentation", np.where(MAPS == 255, 1, MAPS)), ("classification", np.array([0, 1, 2]))]
)
def test_a_declared_label_that_is_also_a_class_is_ignored_with_a_warning(task, labels):
    found = read(labels, task, 3, ignore_labels=(1, 2))
    assert found.ignored is not None
    assert list(found.ignored.counts) == [1, 2]
    assert "label 1 is ignored as declared, but it is also a class of the model" in found.warnings[0]
    assert "Remove --ignore-label 1 if" in found.warnings[0]
    assert read(labels, task, 3, ignore_labels=(7,)).warnings == ()


def test_ignored_labels_that_are_declared_for_data_without_labels_have_no_effect_and_a_warning_says_so():
    found = as_dataset({"x": X}, SPECS, classes=3, ignore_labels=(1, 2), where="it")
    assert found.warnings == ("it has no array 'labels', so --ignore-label 1, 2 has no effect",)
    assert as_dataset({"x": X}, SPECS, classes=3, ignore_labels=(), where="it").warnings == ()
    assert as_dataset({"x": X}, SPECS, classes=3, ignore_labels=(1,), read_labels=False, where="it").warnings == ()


@pytest.mark.parametrize(
    ("labels", "task", "options", "message"),
    [
        (MAPS, "segmentation", {"classes": 3, "ignore_labels": ()},
         "label 255 is outside the model's classes, 0 to 2, in 3 of 12 pixels; .* add --ignore-label 255$"),
        (MAPS, "segmentation", {"classes": 2}, "label 2 is outside .* in 1 of 9 pixels; .* add --ignore-label 2$"),
        (MAPS + 1, "segmentation", {"classes": 1}, "labels 2, 1, 256 and 1 more are outside .* --ignore-label 2$"),
        (np.full((3, 2, 2), 255), "segmentation", {"classes": 3}, r"every label is ignored \(255\)"),
        (np.full(3, 7), "classification", {"classes": 9, "ignore_labels": (7,)}, r"every label is ignored \(7\)"),
        (np.full(3, 2**63 + 5, np.uint64), "classification", {"classes": 3}, "label 9223372036854775813 is no class"),
        (TAGS + 256, "tagging", {"classes": 3}, "labels 156, 258, 257 and 1 more are outside"),
    ],
)  # fmt: skip
def test_labels_that_are_neither_a_class_nor_declared_are_named(labels, task, options, message):
    with pytest.raises(DataError, match=message):
        read(labels, task, **options)


def test_labels_that_are_not_read_are_not_checked():
    found = read(np.full((3, 9), 999), "segmentation", 3, read_labels=False)
    assert found.labels is None
    assert found.warnings == ()
