"""Targets: shipped, the user's own, and wrong ones."""

import platform

import pytest

from edgeexit.errors import TargetError
from edgeexit.targets import host_target, list_targets, load_target


def test_the_generic_targets_are_shipped():
    assert {"x86-cpu", "arm64-cpu"} <= set(list_targets())
    assert load_target(host_target()).architecture == {"amd64": "x86_64", "arm64": "aarch64"}.get(
        platform.machine().lower(), platform.machine()
    )


def test_the_users_own_file_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "x86-cpu.toml").write_text(
        'description = "mine"\narchitecture = "x86_64"\nruntime = "onnxruntime"\nprecisions = ["fp32"]\nopset = 18\n'
    )
    assert load_target("x86-cpu").description == "mine"
    assert load_target("arm64-cpu").opset == 20


@pytest.mark.parametrize(
    ("line", "named"), [("opset = 9", "opset"), ("sped = 1", "sped"), ("opset = ", "x86-cpu.toml")]
)
def test_a_wrong_field_is_named_with_its_file(tmp_path, monkeypatch, line, named):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "x86-cpu.toml").write_text(
        f'description = "mine"\narchitecture = "x86_64"\nruntime = "onnxruntime"\nprecisions = ["fp32"]\n{line}\n'
    )
    with pytest.raises(TargetError, match=named):
        load_target("x86-cpu")


def test_an_unknown_target_lists_those_there_are():
    with pytest.raises(TargetError, match="arm64-cpu, x86-cpu"):
        load_target("abacus")
