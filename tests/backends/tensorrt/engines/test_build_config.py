"""From a recipe to the shapes that a plan takes."""

import msgspec
import pytest

from edgeexit.backends.tensorrt.engines import parse_dimensions, resolve_build_config, stage_shapes
from edgeexit.backends.tensorrt.engines.build_config import outside
from edgeexit.bundle.manifest import TEMPERATURE_INPUT, BuildConfig, TensorSpec
from edgeexit.errors import EngineError
from edgeexit.targets import Nvidia

ORIN = Nvidia(sm="SM87", workspace_mb=2048, batch=(1, 2, 8), dla_cores=2)


@pytest.fixture
def manifest(tiny):
    """Its input has a dimension known only at run time."""
    return msgspec.structs.replace(
        tiny.manifest, inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", "length", 8)),)
    )


def test_every_input_of_a_stage_has_its_range(manifest):
    build_config = resolve_build_config(manifest, ORIN, dimensions={"length": (1, 16, 64)})
    assert stage_shapes(manifest, manifest.stages[0], build_config) == {
        "x": ((1, 1, 8), (2, 16, 8), (8, 64, 8)),
        TEMPERATURE_INPUT: ((1,), (1,), (1,)),
    }
    assert stage_shapes(manifest, manifest.stages[2], build_config) == {
        "hidden0": ((1, 16), (2, 16), (8, 16)),
        "hidden1": ((1, 16), (2, 16), (8, 16)),
        TEMPERATURE_INPUT: ((1,), (1,), (1,)),
    }


def test_the_bundles_recipe_comes_before_the_targets_and_options_before_both(tiny):
    own = msgspec.structs.replace(tiny.manifest, build_config=BuildConfig(batch=(1, 4, 4), workspace_mb=100))
    assert resolve_build_config(tiny.manifest, ORIN).batch == (1, 2, 8)
    assert resolve_build_config(tiny.manifest, ORIN).workspace_mb == 2048
    assert resolve_build_config(own, ORIN).batch == (1, 4, 4)
    assert resolve_build_config(own, ORIN, workspace_mb=7) == BuildConfig(batch=(1, 4, 4), workspace_mb=7)
    assert resolve_build_config(own, ORIN, batch=(2, 2, 2)).batch == (2, 2, 2)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"batch": (4, 2, 8)}, r"the range of 'batch' is 4,2,8"),
        ({"batch": (0, 2, 8)}, r"the range of 'batch' is 0,2,8"),
        ({"dimensions": {"length": (3, 2, 8)}}, r"the range of 'length' is 3,2,8"),
        ({}, r"no range for what is known only at run time, 'length' of 'x'; give --dimension length=LEAST"),
        ({"dimensions": {"lenght": (1, 2, 8)}}, r"no dimension 'lenght'; those known only at run time are: 'length'"),
        ({"dimensions": {"length": (1, 2, 8)}, "dla_core": 0}, r"a DLA runs fp16 and int8, the bundle is fp32"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(manifest, options, complaint):
    with pytest.raises(EngineError, match=complaint):
        resolve_build_config(manifest, ORIN, **options)


def test_a_dla_takes_one_size_of_everything(tiny):
    half = msgspec.structs.replace(tiny.manifest, precision="fp16")
    with pytest.raises(EngineError, match="a DLA takes one size of every dimension, the range of 'batch' is 1,2,8"):
        resolve_build_config(half, ORIN, dla_core=1)
    assert resolve_build_config(half, ORIN, dla_core=1, batch=(2, 2, 2)).dla_core == 1


def test_golden_samples_outside_of_the_ranges_are_named(manifest):
    build_config = resolve_build_config(manifest, ORIN, dimensions={"length": (4, 16, 64)})
    assert outside(manifest, build_config, {"x": (9, 4, 8)}) is None
    assert outside(manifest, build_config, {"x": (9, 3, 8)}) == "'x' has length 3, not 4 to 64"


def test_everything_that_has_no_range_is_named_at_once(manifest):
    two = (TensorSpec(name="x", dtype="float32", shape=("batch", "length", "width")),)
    with pytest.raises(EngineError, match=r"'length' of 'x', 'width' of 'x'; give --dimension length=.* --dimension w"):
        resolve_build_config(msgspec.structs.replace(manifest, inputs=two), ORIN)


@pytest.mark.parametrize("texts", [["length"], ["=1,2,3"], ["length=1,2"], ["length=1,2,x"], ["n=1,2,3", "n=1,2,3"]])
def test_dimensions_that_cannot_be_read_are_refused(texts):
    with pytest.raises(EngineError, match="--dimension"):
        parse_dimensions(texts)
    assert parse_dimensions(["n=1,2,3", "m.2=4,4,4"]) == {"n": (1, 2, 3), "m.2": (4, 4, 4)}
