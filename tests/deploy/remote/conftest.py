"""The folder of a deployment in which a step runs without a connection."""

import pytest


@pytest.fixture
def deployment(tmp_path):
    """A folder with one copied file, and an environment whose program `edgeexit` records its arguments."""
    root = tmp_path / "edgeexit"
    bundle = root / "incoming" / "k" / "bundle"
    bundle.mkdir(parents=True)
    (bundle / "a").write_text("a")
    program = root / "venvs" / "v" / "bin" / "edgeexit"
    program.parent.mkdir(parents=True)
    program.write_text(
        '#!/bin/sh\necho "$XDG_CACHE_HOME $*" > called\ntest -e bundle/a || { echo "error: no a"; exit 2; }\n'
    )
    program.chmod(0o755)
    return root
