"""What holds for all tests: a slow machine is no reason to fail, and the ARM lane runs when it is asked for."""

import pytest
from hypothesis import HealthCheck, settings

from tests.arm.emulation import what_is_missing

settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

_left_out = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--arm", action="store_true", help="also run the tests on an emulated aarch64 machine (docs/arm.md)"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    on_arm = [item for item in items if item.get_closest_marker("arm")]
    if not on_arm:
        return
    reason = what_is_missing() if config.getoption("--arm") else "runs with scripts/test --arm (docs/arm.md)"
    if reason is None:
        return
    config.stash[_left_out] = reason
    for item in on_arm:
        item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say at the very end, too, that what was asked for did not run."""
    if config.getoption("--arm") and (reason := config.stash.get(_left_out, None)) is not None:
        terminalreporter.write_line(f"the ARM lane did not run: {reason}", yellow=True)
