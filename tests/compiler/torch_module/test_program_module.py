"""An exported program is asked within the bounds of its batch dimension."""

import numpy as np
import pytest
import torch
from torch.export import Dim

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.compiler import CompileOptions, compile_bundle
from edgeexit.compiler.torch_module.program_module import outputs_of
from edgeexit.compiler.torch_module.program_sizes import BatchSizes, batch_sizes_of, default_sizes
from edgeexit.errors import CompileError
from tests.compiler.programs import TwoExits, export_two_exits
from tests.compiler.staged_run import run_stages


@pytest.mark.parametrize(
    ("batch", "count", "sizes"),
    [
        (Dim("b", min=1, max=8), 6, (1, 8, 1)),
        (Dim("b", min=2, max=3), 3, (2, 3, 1)),
        (2 * Dim("half", min=2, max=10), 6, (4, 20, 2)),
        (3 * Dim("third", min=2) + 1, 7, (7, 3 * (1 << 31) + 1, 3)),
        (Dim.DYNAMIC, 6, (2, 1 << 31, 1)),
    ],
)
def test_the_batch_sizes_of_a_program_are_those_of_its_dimension(batch, count, sizes):
    assert batch_sizes_of(export_two_exits(batch, count)) == sizes


@pytest.mark.parametrize(
    ("sizes", "count", "parts"),
    [
        (BatchSizes(), 32, [(0, 32, 32)]),
        (BatchSizes(1, 8), 20, [(0, 8, 8), (8, 16, 8), (16, 20, 4)]),
        (BatchSizes(2, 3), 4, [(0, 3, 3), (3, 4, 2)]),
        (BatchSizes(4, 11, 2), 13, [(0, 10, 10), (10, 13, 4)]),
        (BatchSizes(4, 20, 2), 7, [(0, 7, 8)]),
    ],
)
def test_samples_are_divided_into_parts_that_a_program_takes(sizes, count, parts):
    assert list(sizes.parts(count)) == parts


def test_the_outputs_of_a_program_are_named_as_those_of_its_module():
    outputs = outputs_of(export_two_exits(Dim("batch", max=9)))
    assert list(outputs) == ["exits.0", "exits.1", "version"]
    assert outputs["version"].value == 3


def test_a_program_whose_outputs_cannot_all_be_exits_gives_their_list(tmp_path):
    class Hidden(TwoExits):
        def forward(self, x):
            return {**super().forward(x), "hidden": x}

    program = torch.export.export(Hidden().eval(), (torch.ones(2, 4),), dynamic_shapes=({0: Dim.DYNAMIC},))
    torch.export.save(program, tmp_path / "hidden.pt2")
    with pytest.raises(CompileError, match=r"'exits.1' s\d+x3 float32, 'hidden' s\d+x4 float32; select the exits with"):
        compile_bundle(tmp_path / "hidden.pt2", tmp_path / "bundle")


@pytest.mark.parametrize("batch", [Dim("b", min=1, max=8), 2 * Dim("half", min=2, max=4)])
def test_a_program_with_a_bounded_batch_becomes_a_bundle_for_any_batch(tmp_path, batch):
    torch.export.save(export_two_exits(batch), tmp_path / "bounded.pt2")
    images = np.random.default_rng(0).standard_normal((21, 4)).astype(np.float32)
    options = CompileOptions(example={"x": images}, exits=["exits.*"])
    bundle = compile_bundle(tmp_path / "bounded.pt2", tmp_path / "bundle", options)
    for count in (1, 21):
        outputs = run_stages(bundle, {"x": images[:count]})
        expected = TwoExits().eval()(torch.from_numpy(images[:count]))["exits"]
        for name, logits in zip(("exits.0", "exits.1"), expected, strict=True):
            np.testing.assert_allclose(outputs[name], logits.detach().numpy(), atol=1e-5)


def test_random_samples_have_sizes_within_the_bounds_of_the_program():
    class Pooled(TwoExits):
        def forward(self, x, y):
            return super().forward(x.mean((1, 2)) + y.mean(1))

    length, half = Dim("length", min=2, max=5), Dim("half", min=10, max=50)
    program = torch.export.export(
        Pooled().eval(),
        (torch.ones(3, 3, 20, 4), torch.ones(3, 7, 4)),
        dynamic_shapes=({0: Dim.DYNAMIC, 1: length, 2: 2 * half}, {0: Dim.DYNAMIC, 1: Dim("other", max=20)}),
    )
    specs = (
        TensorSpec(name="x", dtype="float32", shape=("batch", "a", "b", 4)),
        TensorSpec(name="y", dtype="float32", shape=("batch", "c", 4)),
    )
    assert default_sizes(program, specs) == {"a": 5, "b": 20, "c": 8}
