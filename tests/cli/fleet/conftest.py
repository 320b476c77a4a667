"""The fixtures of tests/simulate, and a data file."""

import numpy as np
import pytest

from tests.bundles import make_samples
from tests.simulate.conftest import broker, bundle, database, database_url, key, serve  # noqa: F401 - fixtures


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, **make_samples(100))
    return path
