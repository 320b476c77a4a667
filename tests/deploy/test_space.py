"""The free space is checked on each file system that a deployment writes to."""

import pytest

from edgeexit.deploy.space import check_space
from edgeexit.errors import DeployError

MIB = 1 << 20


def space(file_system, free_mib):
    return {"file_system": file_system, "free_bytes": free_mib * MIB}


def test_folders_on_one_file_system_share_its_free_space():
    spaces = {"/d/a": space(1, 500), "/d/b": space(1, 500)}
    assert check_space({"/d/a": 200 * MIB, "/d/b": 200 * MIB}, spaces) == (432 * MIB, 500 * MIB)
    with pytest.raises(DeployError, match=r"'/d/b' on the device needs 532 MiB free and has 500 MiB"):
        check_space({"/d/a": 200 * MIB, "/d/b": 300 * MIB}, spaces)


def test_each_file_system_needs_only_what_is_written_there():
    spaces = {"/d/a": space(1, 250), "/d/b": space(2, 400)}
    assert check_space({"/d/a": 200 * MIB, "/d/b": 300 * MIB}, spaces) == (232 * MIB, 250 * MIB)
    with pytest.raises(DeployError, match=r"'/d/a' on the device needs 332 MiB free and has 250 MiB"):
        check_space({"/d/a": 300 * MIB, "/d/b": 0}, spaces)


def test_a_device_that_does_not_report_a_folder_is_refused():
    with pytest.raises(DeployError, match="did not report the free space of '/d/a'"):
        check_space({"/d/a": 1}, {})
