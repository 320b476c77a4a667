"""What the next start concludes from a policy that was new when the last process ended."""

from pathlib import Path

import pytest

from edgeexit.agent.policy.trial_marker import FILE, Trial, TrialMarker, interruption

POLICY = "policy.plant.cohort.presses.0123456789abcdef.json"


def boot(folder: Path, name: str) -> TrialMarker:
    (folder / "boot_id").write_text(name + "\n")
    return TrialMarker(folder, boot_id=folder / "boot_id")


def test_a_process_that_ends_in_the_same_boot_has_crashed(tmp_path: Path) -> None:
    marker = boot(tmp_path, "first")
    assert marker.interrupted is None
    marker.begin(POLICY, 5)
    again = boot(tmp_path, "first")
    assert again.interrupted == Trial(policy=POLICY, revision=5, boot="first")
    reason = interruption(again.interrupted, again.boot)
    assert reason is not None
    assert "the process ended" in reason


def test_one_power_cut_is_not_the_policys_fault_and_the_second_one_is(tmp_path: Path) -> None:
    boot(tmp_path, "first").begin(POLICY, 5)
    second = boot(tmp_path, "second")
    assert second.interrupted is not None
    assert interruption(second.interrupted, second.boot) is None
    second.begin(POLICY, 5)
    third = boot(tmp_path, "third")
    assert third.interrupted is not None
    reason = interruption(third.interrupted, third.boot)
    assert reason == "the device restarted 2 times soon after it was applied"


def test_power_cuts_under_another_policy_do_not_count(tmp_path: Path) -> None:
    boot(tmp_path, "first").begin(POLICY, 5)
    boot(tmp_path, "second").begin(POLICY, 6)
    third = boot(tmp_path, "third")
    assert third.interrupted == Trial(policy=POLICY, revision=6, boot="second")
    assert interruption(third.interrupted, third.boot) is None


def test_a_clean_end_leaves_no_marker(tmp_path: Path) -> None:
    marker = boot(tmp_path, "first")
    marker.begin(POLICY, 5)
    assert marker.exists
    marker.end()
    assert not marker.exists
    assert boot(tmp_path, "first").interrupted is None


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\xff", b'{"content":{"policy":"x","revision":6,"boot":"b"},"crc32":1}']
)
def test_a_damaged_marker_is_ignored(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert boot(tmp_path, "first").interrupted is None
    assert "the marker of the policy on trial is ignored" in caplog.text


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    boot(tmp_path, "first").begin(POLICY, 5)
    path = tmp_path / FILE
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        found = boot(tmp_path, "first").interrupted
        assert found is None or found == Trial(policy=POLICY, revision=5, boot="first")
