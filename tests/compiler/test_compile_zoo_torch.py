"""Torch networks of common architectures: the carries have the expected sizes, and the stages equal the full model."""

import numpy as np
import onnx
import pytest

from edgeexit.compiler import CompileOptions, compile_bundle
from tests.compiler import networks
from tests.compiler.full_model import assert_composed, bytes_carried, module_as_full_model

RNG = np.random.default_rng(3)
IMAGES = {"image": RNG.standard_normal((5, 1, 8, 8)).astype(np.float32)}
TOKENS = {
    "ids": RNG.integers(0, 50, (5, 6)),
    "mask": (np.arange(6) < np.array([[6], [1], [3], [5], [2]])).astype(np.int64),
}
TARGET = (
    'description = "an old board"\narchitecture = "aarch64"\nruntime = "tensorrt"\nprecisions = ["fp32"]\nopset = {}\n'
)
NVIDIA = '[nvidia]\nsm = "SM53"\nworkspace_mb = 512\n'


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Compile a network of `networks` for a target with an opset, once; return the bundle and the module."""
    made = {}

    def make(name, *inputs, opset=20):
        if (name, opset) not in made:
            folder = tmp_path_factory.mktemp(f"{name}{opset}")
            (folder / "targets").mkdir()
            (folder / "targets" / "old.toml").write_text(TARGET.format(opset) + NVIDIA)
            module = getattr(networks, name)().eval()
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                made[name, opset] = (
                    compile_bundle(module, folder / "bundle", CompileOptions(inputs=inputs, target="old")),
                    module,
                )
        return made[name, opset]

    return make


def test_densely_connected_layers_carry_parts_and_no_concatenation(compiled):
    bundle, module = compiled("DenselyConnected", "image:n,1,8,8")
    assert_composed(bundle, module_as_full_model(module), IMAGES)
    pixels = 8 * 8 * 4
    assert bytes_carried(bundle) == [0, 8 * pixels, 10 * pixels]


def test_three_resolutions_are_carried_from_stage_to_stage(compiled):
    bundle, module = compiled("MultiScale", "image:n,1,8,8")
    shapes = [[tensor.shape for tensor in stage.carry_out] for stage in bundle.manifest.stages]
    resolutions = [("batch", 4, size, size) for size in (8, 4, 2)]
    assert shapes == [resolutions, resolutions, []]
    assert_composed(bundle, module_as_full_model(module), IMAGES)


def test_a_u_net_carries_the_skip_connections_and_no_upsampled_map(compiled):
    bundle, module = compiled("Segmenter", "image:n,1,16,16")
    assert bundle.manifest.task == "segmentation"
    first, second, _ = bundle.manifest.stages
    assert [tensor.shape for tensor in first.carry_out] == [("batch", c, s, s) for c, s in ((4, 16), (6, 8), (8, 4))]
    assert [tensor.shape for tensor in second.carry_out] == [("batch", 6, 8, 8)]
    samples = {"image": RNG.standard_normal((5, 1, 16, 16)).astype(np.float32)}
    assert_composed(bundle, module_as_full_model(module), samples)


@pytest.mark.parametrize("opset", [13, 20])
def test_recurrent_layers_carry_their_outputs(compiled, opset):
    bundle, module = compiled("Recurrent", "steps:n,5,4", opset=opset)
    assert [tensor.shape for tensor in bundle.manifest.stages[0].carry_out] == [("batch", 5, 6)]
    assert bundle.manifest.stages[1].inputs == ()
    assert_composed(bundle, module_as_full_model(module), {"steps": RNG.standard_normal((5, 5, 4)).astype(np.float32)})


def test_heads_may_share_a_projection_and_weights(compiled):
    bundle, module = compiled("SharedTrunkOfHeads", "x:n,8")
    assert bytes_carried(bundle) == [0, (8 + 6) * 4]
    assert bundle.manifest.macs == (8 * 8 + 8 * 6 + 6 * 3, 2 * (8 * 8 + 8 * 6) + 6 * 3 + 12 * 3)
    assert_composed(bundle, module_as_full_model(module), {"x": RNG.standard_normal((5, 8)).astype(np.float32)})


def test_an_encoder_may_count_positions_from_the_mask(compiled):
    bundle, module = compiled("Positions", "ids:n,length:int64", "mask:n,length:int64")
    assert bundle.manifest.exits == ("after_1", "after_3")
    hidden = [tensor for tensor in bundle.manifest.stages[0].carry_out if tensor.dtype == "float32"]
    assert ("batch", "length", 8) in [tensor.shape for tensor in hidden]
    assert_composed(bundle, module_as_full_model(module), TOKENS)
    assert_composed(bundle, module_as_full_model(module), {name: array[:, :2] for name, array in TOKENS.items()})


@pytest.mark.parametrize(
    ("name", "inputs", "samples", "opset"),
    [
        ("Residual", ("image:n,1,8,8",), IMAGES, 13),
        ("Residual", ("image:n,1,8,8",), IMAGES, 18),
        ("Residual", ("image:n,1,8,8",), IMAGES, 23),
        ("ManyOperators", ("image:n,1,8,8",), IMAGES, 13),
        ("Positions", ("ids:n,length:int64", "mask:n,length:int64"), TOKENS, 13),
        ("Positions", ("ids:n,length:int64", "mask:n,length:int64"), TOKENS, 17),
    ],
)
def test_the_stages_have_the_opset_of_the_target(compiled, name, inputs, samples, opset):
    bundle, module = compiled(name, *inputs, opset=opset)
    assert bundle.manifest.opset == min(opset, 20)
    for stage in bundle.manifest.stages:
        (standard,) = (entry for entry in onnx.load(bundle.path / stage.file).opset_import if entry.domain == "")
        assert standard.version == bundle.manifest.opset
    assert_composed(bundle, module_as_full_model(module), samples)


def test_a_u_net_is_compiled_for_the_oldest_opset(compiled):
    bundle, module = compiled("Segmenter", "image:n,1,16,16", opset=13)
    assert_composed(
        bundle, module_as_full_model(module), {"image": RNG.standard_normal((5, 1, 16, 16)).astype(np.float32)}
    )
