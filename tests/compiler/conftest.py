"""Compiled bundles that several tests look at; the exporter takes seconds, so each is made once."""

import numpy as np
import pytest

from edgeexit.compiler import CompileOptions, compile_bundle
from tests.compiler.networks import Dense, Masked, Residual


@pytest.fixture(scope="session")
def images():
    return np.random.default_rng(5).standard_normal((12, 1, 8, 8)).astype(np.float32)


@pytest.fixture(scope="session")
def residual(tmp_path_factory, images):
    """A bundle made from real samples."""
    return compile_bundle(
        Residual(), tmp_path_factory.mktemp("made") / "residual", CompileOptions(example={"image": images})
    )


@pytest.fixture(scope="session")
def dense(tmp_path_factory):
    return compile_bundle(Dense(), tmp_path_factory.mktemp("made") / "dense", CompileOptions(inputs=["input:batch,4"]))


@pytest.fixture(scope="session")
def masked(tmp_path_factory):
    """Two inputs whose second dimension is known only at run time; named in another order than forward's."""
    return compile_bundle(
        Masked(),
        tmp_path_factory.mktemp("made") / "masked",
        CompileOptions(inputs=["mask:n,length:int64", "ids:n,length:int64"]),
    )
