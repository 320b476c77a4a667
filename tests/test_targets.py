"""The shipped targets, the user's own targets, and invalid target files."""

import platform
import re
from pathlib import Path

import pytest

from edgeexit.errors import TargetError
from edgeexit.targets import Nvidia, SessionConfig, Target, host_target, is_users_own, list_targets, load_target

SHIPPED = {
    *("jetson-nano", "jetson-xavier-nx", "jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin", "jetson-thor"),
    *("raspberry-pi-4", "raspberry-pi-5", "imx8m-plus", "arm64-cpu", "x86-cpu", "nvidia-desktop"),
}
CPU = 'description = "mine"\narchitecture = "x86_64"\nruntime = "onnxruntime"\nprecisions = ["fp32"]\nopset = 18\n'
UNKNOWN_RUNTIME = (
    'runtime = "tensorflow" is not a known backend; '
    "did you mean 'tensorrt'? known: onnxruntime, tensorrt, tensorrt_rtx"
)
NVIDIA = '[nvidia]\nsm = "SM87"\nworkspace_mb = 64\n'


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Return a function that writes a target file into the user's folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "targets").mkdir()
    return lambda text, name="mine": (tmp_path / "targets" / f"{name}.toml").write_text(text)


def test_the_generic_target_of_this_machine_is_shipped():
    assert load_target(host_target()).architecture == {"amd64": "x86_64", "arm64": "aarch64"}.get(
        platform.machine().lower(), platform.machine()
    )


def test_every_documented_target_is_shipped_and_valid(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert set(list_targets()) == SHIPPED
    for name in SHIPPED:
        assert load_target(name).description


def test_nvidia_targets_have_the_compute_capability_of_their_gpu(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = {name: load_target(name).nvidia for name in SHIPPED}
    assert {name: part.sm for name, part in parts.items() if part is not None} == {
        "jetson-nano": "SM53",
        "jetson-xavier-nx": "SM72",
        "jetson-orin-nano": "SM87",
        "jetson-orin-nx": "SM87",
        "jetson-agx-orin": "SM87",
        "jetson-thor": "SM110",
        "nvidia-desktop": "SM86",
    }
    for name, part in parts.items():
        target = load_target(name)
        if target.runtime == "tensorrt":
            assert part.jetpack, name
            assert all(int(version.split(".")[0]) >= 10 for version in part.jetpack.values()), name


@pytest.mark.parametrize("name", ["jetson-nano", "jetson-xavier-nx"])
def test_boards_with_tensorrt_8_run_on_the_cpu_and_their_notes_explain_it(name):
    target = load_target(name)
    assert target.runtime == "onnxruntime"
    assert tuple(map(int, target.python.split("."))) < (3, 10)
    for word in ("TensorRT 8", "10 and 11 only", "3.10 or newer", "CPU"):
        assert word in target.notes


def test_idle_threads_do_not_spin_on_any_target():
    assert not any(load_target(name).session.spinning for name in SHIPPED)


def test_the_users_file_overrides_a_shipped_target(own):
    own(CPU, "x86-cpu")
    assert load_target("x86-cpu").description == "mine"
    assert load_target("arm64-cpu").opset == 20
    assert is_users_own(list_targets()["x86-cpu"])
    assert not is_users_own(list_targets()["arm64-cpu"])


def test_shipped_targets_are_not_the_users_in_the_root_of_a_checkout(monkeypatch):
    shipped = next(iter(list_targets().values())).resolve().parent
    monkeypatch.chdir(shipped.parent)
    if shipped.name == "targets":
        assert not any(is_users_own(path) for path in list_targets().values())


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (
            CPU.replace("onnxruntime", "tensorflow"),
            3,
            UNKNOWN_RUNTIME,
        ),
        (
            CPU.replace('["fp32"]', '[\n  "fp32",\n  "fp8",\n]'),
            4,
            'precisions = ["fp32","fp8"]: \'fp8\' is not one of fp16, fp32, int8',
        ),
        (CPU.replace('["fp32"]', '["fp32", "fp32"]'), 4, 'precisions = ["fp32","fp32"] names a precision twice'),
        (CPU.replace("18", "9"), 5, "opset = 9: expected int >= 13"),
        (CPU + "sped = 1", 6, "unknown field 'sped'; the known fields are description, architecture"),
        (CPU + "memory = 1", 6, "unknown field 'memory'; did you mean 'memory_mb'?"),
        (CPU + "threads = 1", 6, "unknown field 'threads'; it belongs in [session]"),
        (CPU + "\n[session]\nthreads = -1", 8, "threads = -1: expected int >= 0"),
        (CPU + 'python = "three"', 6, 'python = "three": it must be a version such as "3.10"'),
        (CPU + "opset = ", 6, "not valid TOML"),
        (
            CPU.replace("onnxruntime", "tensorrt"),
            3,
            'runtime = "tensorrt" builds plans, so the file needs a table [nvidia]',
        ),
        (CPU + '[nvidia]\nsm = "SM87"', 6, "field 'workspace_mb' in [nvidia] is missing"),
        (CPU + NVIDIA.replace("SM87", "8.7"), 7, 'sm = "8.7": it must be the compute capability, such as "SM87"'),
        (CPU + NVIDIA + "batch = [4, 1, 8]", 9, "batch = [4,1,8] must be ordered: min, optimal, max"),
        (CPU + NVIDIA + "batch = [0, 1, 8]", 9, "batch = [0,1,8] must be ordered"),
        (CPU + NVIDIA + "batch = [1, 8]", 9, "batch = [1,8]: expected array of length 3, got 2"),
        (
            CPU + NVIDIA + '[nvidia.jetpack]\n"6.1" = "10.3"\n"6.2" = "latest"',
            11,
            '6.2 = "latest" must map a JetPack release to its TensorRT version, as in "6.2" = "10.3"',
        ),
    ],
)
def test_a_wrong_field_is_one_line_that_names_file_and_line(own, text, line, message):
    own(text)
    with pytest.raises(TargetError) as refusal:
        load_target("mine")
    assert str(refusal.value).startswith(f"target file 'targets/mine.toml', line {line}: {message}")
    assert "\n" not in str(refusal.value)


def test_a_missing_field_is_named_with_its_file(own):
    own(CPU.replace("opset = 18\n", ""))
    with pytest.raises(TargetError, match=r"^target file 'targets/mine\.toml': field 'opset' is missing$"):
        load_target("mine")


def test_a_broken_file_does_not_affect_other_targets(own):
    own("nonsense")
    assert load_target("x86-cpu").runtime == "onnxruntime"
    assert "mine" in list_targets()


def test_a_file_that_cannot_be_read_is_one_line(own, tmp_path):
    (tmp_path / "targets" / "mine.toml").mkdir()
    with pytest.raises(TargetError, match=r"'targets/mine\.toml' cannot be read: Is a directory"):
        load_target("mine")


def test_an_unknown_target_is_an_error_with_the_closest_and_all_known_names():
    with pytest.raises(TargetError, match=r"'jetson-orin-nanoo' is unknown; did you mean 'jetson-orin-nano'\? known: "):
        load_target("jetson-orin-nanoo")
    with pytest.raises(TargetError, match=r"'abacus' is unknown; known: arm64-cpu, imx8m-plus, jetson-agx-orin"):
        load_target("abacus")


def test_the_documented_target_is_valid(own):
    page = Path(__file__).parent.parent / "docs" / "targets.md"
    (example,) = re.findall(r"```toml\n(.*?)```", page.read_text(), flags=re.DOTALL)
    own(example)
    assert load_target("mine").nvidia.batch == (1, 4, 16)


def test_every_field_is_documented():
    page = (Path(__file__).parent.parent / "docs" / "targets.md").read_text()
    tables = {"session": SessionConfig, "nvidia": Nvidia}
    for name in Target.__struct_fields__:
        inside = tables[name].__struct_fields__ if name in tables else ()
        for field in [f"{name}.{one}" for one in inside] or [name]:
            assert f"| `{field}` |" in page
