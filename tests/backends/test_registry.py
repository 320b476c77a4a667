"""The registry of backends, and the traits that every backend declares."""

import subprocess
import sys
from pkgutil import resolve_name

import msgspec
import pytest

from edgeexit.backends.base import load_engine_builder
from edgeexit.backends.registry import BACKENDS, register_backend


@pytest.mark.parametrize("name", BACKENDS)
def test_the_traits_of_a_backend_name_its_class_and_its_engine_builder(name):
    traits = BACKENDS[name]
    assert traits.name == name
    assert callable(resolve_name(traits.backend))
    if traits.builds_engines:
        engines = load_engine_builder(traits)
        assert callable(engines.check_stages)
        assert callable(engines.build_missing_engines)
    else:
        assert not traits.builds_ahead_of_time


def test_a_second_backend_of_the_same_name_is_refused():
    register_backend(BACKENDS["onnxruntime"])  # the same one again is harmless
    with pytest.raises(ValueError, match=r"backend 'onnxruntime' is registered already: edgeexit\.backends"):
        register_backend(msgspec.structs.replace(BACKENDS["onnxruntime"], title="other"))


def test_importing_the_registry_and_the_targets_loads_no_runtime():
    code = "import sys, edgeexit.targets; print({'onnxruntime', 'tensorrt', 'tensorrt_rtx', 'cuda'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
