"""The TensorRT backend delivers the companions of the exit that each sample takes. The GPU is a stand-in."""

import numpy as np
import pytest

from edgeexit.runtime import Runner
from tests.backends.tensorrt.tensorrt_runs import EXITS, open_backend
from tests.bundles import companions_of, make_bundle, make_samples
from tests.runtime.policies_of_every_kind import policies_on

pytestmark = pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tensorrt") / "bundle"
    return make_bundle(folder, exits=EXITS, target="nvidia-desktop", companions=True)


def test_companions_are_those_of_the_exit_taken(machine, bundle, cache_folder, reference):
    samples = make_samples(64, seed=8)
    policy = policies_on(reference.infer_every_exit(samples, probabilities=True).readouts)["confidence"]
    taken = set()
    with Runner(bundle, backend=open_backend(machine, bundle, cache_folder)) as runner:
        for seed, batch in enumerate((1, 7, 33, 1, 64, 3)):
            inputs = make_samples(batch, seed=100 + seed)
            result, every = runner.infer(inputs, policy=policy), companions_of(bundle, inputs)
            for name, found in result.companions.items():
                expected = np.stack([every[k][name][row] for row, k in enumerate(result.exits)])
                np.testing.assert_allclose(found, expected, atol=1e-5)
                assert found.dtype == expected.dtype
            assert list(result.companions) == ["corners", "feature"]
            taken.update(result.exits)
    assert taken == set(range(EXITS))


def test_all_exits_share_the_memory_of_a_companion(only_tensorrt, bundle, cache_folder):
    with open_backend(only_tensorrt, bundle, cache_folder) as backend:
        tensors = backend._idle[0]._tensors
        addresses = {name: {tensors[f"{name}{k}"].address for k in range(EXITS)} for name in ("corners", "feature")}
    assert [len(found) for found in addresses.values()] == [1, 1]
    assert addresses["corners"] != addresses["feature"]
