"""The steps `inventory` and `receive`: files of installed releases are linked, and incoming files are private."""

import stat

from edgeexit.deploy.remote import finish, inventory, receive
from tests.deploy.remote.documents import FILE, RELEASE


def test_a_file_that_a_release_has_is_linked_and_not_sent(deployment):
    release = finish.main(deployment, {"release": RELEASE})["id"]
    state = inventory.main(deployment, {"files": [FILE], "folders": []})["files"][FILE["path"]]
    assert state == {"state": "in_release", "release": release, "offset": 0}
    assert receive.main(deployment, {"files": [{**FILE, "release": release, "offset": 0}]}) == {"damaged": []}
    assert (deployment / FILE["path"]).read_text() == "a"


def test_the_folder_for_incoming_files_is_private(deployment):
    (deployment / "incoming").rename(deployment / "releases")
    receive.main(deployment, {"files": []})
    assert stat.S_IMODE((deployment / "incoming").stat().st_mode) == 0o700
