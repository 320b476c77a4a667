"""The step `finish`: a release is created once, and an absolute state folder is checked before the switch."""

import stat

import pytest

from edgeexit.deploy.remote import finish
from edgeexit.deploy.remote.layout import StepError
from tests.deploy.remote.documents import RELEASE


def test_a_release_is_finished_once_even_if_the_step_runs_twice(deployment):
    first = finish.main(deployment, {"release": RELEASE})["id"]
    assert finish.main(deployment, {"release": RELEASE})["id"] == first
    document = deployment / "releases" / first / "release.json"
    assert stat.S_IMODE(document.stat().st_mode) == 0o600  # it contains the SHA-256 of a password file


def test_an_absolute_state_folder_is_created_or_refused_before_the_switch(deployment, tmp_path):
    release = {**RELEASE, "configuration": {"writable_folders": [str(tmp_path / "data" / "state")]}}
    (tmp_path / "data").write_text("")
    with pytest.raises(StepError, match=r"state_dir .*data/state' cannot be created"):
        finish.main(deployment, {"release": release})
    (tmp_path / "data").unlink()
    finish.main(deployment, {"release": release})
    assert (tmp_path / "data" / "state").is_dir()
