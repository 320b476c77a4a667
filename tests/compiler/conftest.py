"""Bundles that several tests use; an export takes seconds, so each bundle is compiled once per session."""

import numpy as np
import pytest

from edgeexit.compiler import CompileOptions, compile_bundle
from tests.compiler.networks import Dense, Masked, Residual


@pytest.fixture(scope="session")
def images():
    return np.random.default_rng(5).standard_normal((12, 1, 8, 8)).astype(np.float32)


@pytest.fixture(scope="session")
def residual(tmp_path_factory, images):
    """A bundle compiled with real samples."""
    return compile_bundle(
        Residual(), tmp_path_factory.mktemp("made") / "residual", CompileOptions(example={"image": images})
    )


@pytest.fixture(scope="session")
def dense(tmp_path_factory):
    return compile_bundle(Dense(), tmp_path_factory.mktemp("made") / "dense", CompileOptions(inputs=["input:batch,4"]))


@pytest.fixture(scope="session")
def masked(tmp_path_factory):
    """A bundle with two inputs and a symbolic dimension; the inputs are not in the order of forward's parameters."""
    return compile_bundle(
        Masked(),
        tmp_path_factory.mktemp("made") / "masked",
        CompileOptions(inputs=["mask:n,length:int64", "ids:n,length:int64"]),
    )
