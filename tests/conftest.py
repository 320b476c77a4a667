"""Settings of all tests: Hypothesis without deadlines, the Arm tests on request, and which tests share a process."""

import importlib.util
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.arm.emulation import what_is_missing

settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

_TESTS = Path(__file__).parent

_GROUPS = {"arm": "arm", "deploy": "deploy", "cli/deploy": "deploy"}
"""Folder -> group, where a fixture of the session is expensive. Elsewhere each file is a group."""

_NEEDED = {
    "torch": [
        "backends/tensorrt/engines/test_build.py",
        "backends/tensorrt/engines/test_parse.py",
        "backends/tensorrt/test_batch.py",
        "runtime/test_maps.py",
        "runtime/test_profiler.py",
        "runtime/test_sizes.py",
        "runtime/test_text.py",
    ],
    "tritonclient": ["agent/endpoint/test_calls.py"],
}
"""Package -> the tests of the device side that need it. scripts/test_device_pythons runs the others without it."""

collect_ignore = [
    file for package, files in _NEEDED.items() if importlib.util.find_spec(package) is None for file in files
]

_arm_skipped = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--arm", action="store_true", help="also run the tests on an emulated aarch64 machine (docs/arm.md)"
    )


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(_group(item.path.relative_to(_TESTS))))
    items.sort(key=lambda item: _is_long(item.path.relative_to(_TESTS)), reverse=True)
    on_arm = [item for item in items if item.get_closest_marker("arm")]
    if not on_arm:
        return
    reason = what_is_missing() if config.getoption("--arm") else "runs with scripts/test --arm (docs/arm.md)"
    if reason is None:
        return
    config.stash[_arm_skipped] = reason
    for item in on_arm:
        item.add_marker(pytest.mark.skip(reason=reason))


def _group(path: Path) -> str:
    """Return the group of a test file; with `--dist loadgroup` one process runs all tests of a group."""
    return _GROUPS.get(path.parent.as_posix(), path.as_posix())


def _is_long(path: Path) -> bool:
    """Return True for the groups that take minutes. They start first, so that no process ends long after the others."""
    return path.parent.as_posix() in _GROUPS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Repeat at the end why the Arm tests did not run although --arm was given."""
    if config.getoption("--arm") and (reason := config.stash.get(_arm_skipped, None)) is not None:
        terminalreporter.write_line(f"the Arm tests did not run: {reason}", yellow=True)
