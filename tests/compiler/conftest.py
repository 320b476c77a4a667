"""Compiled bundles for several tests; the export takes seconds, so each is compiled once."""

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
    """Two inputs with a symbolic dimension, given in another order than forward's parameters."""
    return compile_bundle(
        Masked(),
        tmp_path_factory.mktemp("made") / "masked",
        CompileOptions(inputs=["mask:n,length:int64", "ids:n,length:int64"]),
    )
