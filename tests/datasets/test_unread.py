"""Arrays that nobody reads are named: labels under another name, misspelt inputs, and all others."""

import numpy as np
import pytest

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.datasets import as_dataset, check_inputs, load_dataset
from edgeexit.errors import DataError

SPECS = (
    TensorSpec(name="ids", dtype="int64", shape=("batch", 5)),
    TensorSpec(name="mask", dtype="float32", shape=("batch", 5)),
)
INPUTS = {"ids": np.zeros((3, 5), np.int64), "mask": np.ones((3, 5), np.float32)}
CLASSES = np.array([0, 1, 2])


def warnings_for(**arrays):
    return as_dataset({**INPUTS, **arrays}, SPECS, classes=3, where="it").warnings


@pytest.mark.parametrize("name", ["y", "label", "Labels", "targets", "y_true", "LABEL", "gt", "anything"])
def test_labels_under_another_name_are_named_with_the_right_one(name):
    assert warnings_for(**{name: CLASSES}) == (
        f"it: '{name}' is not read, and there is no array 'labels'; if it has the true classes, rename it to 'labels'",
    )


def test_one_line_names_all_unread_arrays_and_the_one_that_may_be_the_labels():
    [line] = warnings_for(y=CLASSES, weights=np.ones(3))
    assert "'y', 'weights' are not read, and there is no array 'labels'; if 'y' has the true classes" in line
    [line] = warnings_for(y=CLASSES, fold=CLASSES)
    assert "if one of them has the true classes" in line
    [line] = warnings_for(**{f"a{k}": np.ones(3) for k in range(50)})
    assert line.endswith("'a7' and 42 more are not read; the model's inputs are 'ids', 'mask'")


def test_beside_labels_the_unread_arrays_are_named_without_advice():
    assert warnings_for(labels=CLASSES, y=CLASSES) == ("it: 'y' is not read; the model's inputs are 'ids', 'mask'",)
    assert warnings_for(labels=CLASSES) == ()
    assert warnings_for() == ()


def test_an_input_named_labels_is_an_input():
    specs = (TensorSpec(name="labels", dtype="int64", shape=("batch", 5)),)
    found = as_dataset({"labels": INPUTS["ids"], "y": CLASSES}, specs, where="it")
    assert found.labels is None
    assert "rename" not in found.warnings[0]


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ({"Mask": INPUTS["mask"]}, "; rename 'Mask' to 'mask'"),
        ({"masks": INPUTS["mask"], "y": CLASSES}, "; rename 'masks' to 'mask'"),
        ({"attention": INPUTS["mask"], "y": CLASSES}, "; rename 'attention' to 'mask'"),  # the only one that fits
        ({"a": INPUTS["mask"], "b": INPUTS["mask"]}, "are 'ids', 'a', 'b'"),
        ({"y": CLASSES}, "are 'ids', 'y'"),
    ],
)
def test_a_misspelt_input_is_named_with_the_array_that_is_meant(given, advice):
    with pytest.raises(DataError) as raised:
        check_inputs({"ids": INPUTS["ids"], **given}, SPECS, where="it")
    assert str(raised.value).startswith("it: the array 'mask' is missing; the arrays are 'ids'")
    assert str(raised.value).endswith(advice)


@pytest.mark.parametrize("name", ["ids", "names"])
def test_an_array_of_python_objects_is_named_and_never_loaded(tmp_path, name):
    path = tmp_path / "data.npz"
    np.savez(path, **{**INPUTS, name: np.array([{"code": 1}, None, 2], dtype=object)})
    with pytest.raises(DataError, match=rf"data\.npz': '{name}' holds Python objects, .* save it as numbers"):
        load_dataset(path, SPECS)
