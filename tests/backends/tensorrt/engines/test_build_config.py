"""Build configs: which values apply, invalid ones, and the optimization profiles of the stages."""

import msgspec
import pytest

from edgeexit.backends.tensorrt.engines import resolve_build_config, stage_shapes
from edgeexit.backends.tensorrt.engines.build_config import out_of_range
from edgeexit.bundle.manifest import TEMPERATURE_INPUT, BuildConfig, TensorSpec
from edgeexit.errors import EngineError
from edgeexit.targets import Nvidia

ORIN = Nvidia(sm="SM87", workspace_mb=2048, batch=(1, 2, 8), dla_cores=2)


@pytest.fixture
def manifest(tiny):
    """A manifest whose input has a symbolic dimension besides the batch."""
    return msgspec.structs.replace(
        tiny.manifest, inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", "length", 8)),)
    )


def test_every_input_of_a_stage_has_its_shapes_in_the_profile(manifest):
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


def test_options_override_the_build_config_of_the_bundle_which_overrides_the_target(tiny):
    own = msgspec.structs.replace(tiny.manifest, build_config=BuildConfig(batch=(1, 4, 4), workspace_mb=100))
    assert resolve_build_config(tiny.manifest, ORIN).batch == (1, 2, 8)
    assert resolve_build_config(tiny.manifest, ORIN).workspace_mb == 2048
    assert resolve_build_config(own, ORIN).batch == (1, 4, 4)
    assert resolve_build_config(own, ORIN, workspace_mb=7) == BuildConfig(batch=(1, 4, 4), workspace_mb=7)
    assert resolve_build_config(own, ORIN, batch=(2, 2, 2)).batch == (2, 2, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": (4, 2, 8)}, r"the range of 'batch' is 4,2,8"),
        ({"batch": (0, 2, 8)}, r"the range of 'batch' is 0,2,8"),
        ({"dimensions": {"length": (3, 2, 8)}}, r"the range of 'length' is 3,2,8"),
        ({}, r"no range for the symbolic dimension 'length' of 'x'; give --dimension length=MIN"),
        ({"dimensions": {"lenght": (1, 2, 8)}}, r"no dimension 'lenght'; its symbolic dimensions are: 'length'"),
        (
            {"dimensions": {"length": (1, 2, 8)}, "dla_core": 0},
            r"a DLA runs fp16 and int8 only, but the bundle is fp32",
        ),
    ],
)
def test_an_invalid_build_config_is_refused(manifest, options, message):
    with pytest.raises(EngineError, match=message):
        resolve_build_config(manifest, ORIN, **options)


def test_a_dla_needs_one_size_per_dimension(tiny):
    half = msgspec.structs.replace(tiny.manifest, precision="fp16")
    with pytest.raises(EngineError, match="a DLA supports one size per dimension, but the range of 'batch' is 1,2,8"):
        resolve_build_config(half, ORIN, dla_core=1)
    assert resolve_build_config(half, ORIN, dla_core=1, batch=(2, 2, 2)).dla_core == 1


def test_an_input_shape_outside_the_ranges_is_described(manifest):
    build_config = resolve_build_config(manifest, ORIN, dimensions={"length": (4, 16, 64)})
    assert out_of_range(manifest, build_config, {"x": (9, 4, 8)}) is None
    assert out_of_range(manifest, build_config, {"x": (9, 3, 8)}) == "input 'x' has length = 3, outside 4 to 64"


def test_one_error_names_all_symbolic_dimensions_without_a_range(manifest):
    two = (TensorSpec(name="x", dtype="float32", shape=("batch", "length", "width")),)
    with pytest.raises(EngineError, match=r"'length' of 'x', 'width' of 'x'; give --dimension length=.* --dimension w"):
        resolve_build_config(msgspec.structs.replace(manifest, inputs=two), ORIN)
