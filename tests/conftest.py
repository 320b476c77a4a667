"""Settings of all tests: Hypothesis without deadlines, the Arm tests on request, and which tests share a process."""

import fcntl
import importlib.util
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.arm.emulation import missing_requirement

settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

_TESTS = Path(__file__).parent

_GROUPS = {"arm": "arm", "deploy": "deploy", "cli/deploy": "deploy"}
"""Folder -> group, where a fixture of the session is expensive. Elsewhere each file is a group."""

_FIRST = ("arm", "deploy", "quickstart/test_steps.py", "compiler/test_compile_zoo_torch.py", "test_examples.py")
"""The groups that take minutes. They start first, so that no process ends long after the others."""

_FIRST_LOCK, _SECOND_LOCK = _TESTS / "conftest.py", _TESTS / "broker.py"
"""Any two files that all processes can open; see `pytest_runtest_protocol`."""

_OPTIONAL = {"torch": r"torch|edgeexit\.compiler", "tritonclient": "tritonclient"}
"""Package -> imports that need it. Only with --device-side do the tests run without them."""

_MISSING = [imports for package, imports in _OPTIONAL.items() if importlib.util.find_spec(package) is None]
_IMPORTS_MISSING = re.compile(rf"^ *(from|import) ({'|'.join(_MISSING)})\b", re.MULTILINE) if _MISSING else None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--arm", action="store_true", help="also run the tests on an emulated aarch64 machine (docs/arm.md)"
    )
    parser.addoption(
        "--device-side", action="store_true", help="leave out the files that import torch or tritonclient if missing"
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With --device-side, leave out the files that import a package which is not installed."""
    if not config.getoption("--device-side") or _IMPORTS_MISSING is None or collection_path.suffix != ".py":
        return None
    return True if _IMPORTS_MISSING.search(collection_path.read_text()) else None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let one process run all tests of a group; the marks of `--dist loadgroup` have no effect with pytest 9.2."""
    from xdist.scheduler import LoadScopeScheduling  # noqa: PLC0415 - only several processes need pytest-xdist

    class GroupScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(Path(nodeid.partition("::")[0]).relative_to("tests"))

    return GroupScheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=_start_order)
    on_arm = [item for item in items if item.get_closest_marker("arm")]
    if not on_arm:
        return
    reason = missing_requirement() if config.getoption("--arm") else "runs with scripts/test --arm (docs/arm.md)"
    if reason is not None:
        for item in on_arm:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test that is marked `timing` while no other process of this run runs a test.

    Each test holds the second lock: shared, or alone if it measures time. Each process takes the first lock before it
    waits for the second one, so a test that waits to be alone is the next one.
    """
    if not hasattr(item.config, "workerinput"):
        return (yield)
    alone = item.get_closest_marker("timing") is not None
    with _FIRST_LOCK.open() as first, _SECOND_LOCK.open() as second:
        fcntl.flock(first, fcntl.LOCK_EX)
        fcntl.flock(second, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(first, fcntl.LOCK_UN)
        try:
            return (yield)
        finally:
            fcntl.flock(second, fcntl.LOCK_UN)  # a child process may still have the file open


def _group(path: Path) -> str:
    """Return the group of a test file, given its path below tests/."""
    return _GROUPS.get(path.parent.as_posix(), path.as_posix())


def _start_order(item: pytest.Item) -> int:
    group = _group(item.path.relative_to(_TESTS))
    return _FIRST.index(group) if group in _FIRST else len(_FIRST)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Repeat at the end why the Arm tests did not run although --arm was given."""
    if config.getoption("--arm") and (reason := missing_requirement()) is not None:
        terminalreporter.write_line(f"the Arm tests did not run: {reason}", yellow=True)
