"""The steps that copy, finish and prepare a release, run without a connection in a folder of their own."""

import stat

import pytest

from edgeexit.deploy.remote import engines, finish, inventory, receive
from edgeexit.deploy.remote.layout import StepError

RELEASE = {
    "bundle": "d" * 64,
    "environment": "v",
    "content_key": "k",
    "configuration": {"writable_folders": []},
}
FILE = {
    "path": "incoming/k/bundle/a", "name": "bundle/a", "size": 1, "mode": 0o644,
    "sha256": "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb",
}  # fmt: skip


@pytest.fixture
def root(tmp_path):
    """The folder of a deployment with one copied file and an environment whose `edgeexit` records its arguments."""
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


def test_engines_are_built_by_the_release_into_the_cache_of_its_agent(root):
    release = finish.main(root, {"release": RELEASE})["id"]
    engines.main(root, {"release": release})
    called = (root / "releases" / release / "called").read_text()
    assert called == f"{root}/state/cache engines build bundle\n"
    (root / "releases" / release / "bundle" / "a").unlink()
    with pytest.raises(StepError, match="the TensorRT engines cannot be built: error: no a"):
        engines.main(root, {"release": release})


def test_a_release_is_finished_once_even_if_the_step_runs_twice(root):
    first = finish.main(root, {"release": RELEASE})["id"]
    assert finish.main(root, {"release": RELEASE})["id"] == first
    document = root / "releases" / first / "release.json"
    assert stat.S_IMODE(document.stat().st_mode) == 0o600  # it contains the SHA-256 of a password file


def test_a_file_that_a_release_has_is_linked_and_not_sent(root):
    release = finish.main(root, {"release": RELEASE})["id"]
    state = inventory.main(root, {"files": [FILE]})["files"][FILE["path"]]
    assert state == {"state": "in_release", "release": release, "offset": 0}
    assert receive.main(root, {"files": [{**FILE, "release": release, "offset": 0}]}) == {"damaged": []}
    assert (root / FILE["path"]).read_text() == "a"


def test_the_folder_for_incoming_files_is_private(root):
    (root / "incoming").rename(root / "releases")
    receive.main(root, {"files": []})
    assert stat.S_IMODE((root / "incoming").stat().st_mode) == 0o700


def test_an_absolute_state_folder_is_created_or_refused_before_the_switch(root, tmp_path):
    release = {**RELEASE, "configuration": {"writable_folders": [str(tmp_path / "data" / "state")]}}
    (tmp_path / "data").write_text("")
    with pytest.raises(StepError, match=r"state_dir .*data/state' cannot be created"):
        finish.main(root, {"release": release})
    (tmp_path / "data").unlink()
    finish.main(root, {"release": release})
    assert (tmp_path / "data" / "state").is_dir()
