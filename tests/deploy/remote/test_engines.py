"""The step `engines`: the environment of a release builds its TensorRT engines."""

import pytest

from edgeexit.deploy.remote import engines, finish
from edgeexit.deploy.remote.layout import StepError
from tests.deploy.remote.documents import RELEASE


def test_engines_are_built_by_the_release_into_the_cache_of_its_agent(deployment):
    release = finish.main(deployment, {"release": RELEASE})["id"]
    engines.main(deployment, {"release": release})
    called = (deployment / "releases" / release / "called").read_text()
    assert called == f"{deployment}/state/cache engines build bundle\n"
    (deployment / "releases" / release / "bundle" / "a").unlink()
    with pytest.raises(StepError, match="the engines cannot be built: error: no a"):
        engines.main(deployment, {"release": release})
