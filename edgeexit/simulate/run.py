"""Runs a simulation from its options to its result, and compares it with a database."""

import asyncio
import gc
import resource
import signal
import time
from collections.abc import Callable
from typing import Final

import msgspec

from edgeexit.errors import ConfigError
from edgeexit.key_set import TrustedKeys
from edgeexit.simulate.comparison import FleetTotals, compare_fleet
from edgeexit.simulate.fleet_load import FleetLoad, LoadProgress
from edgeexit.simulate.gateway import BrokerAccess, require_supported
from edgeexit.simulate.model import SimulatedModel
from edgeexit.simulate.options import SimulationOptions
from edgeexit.simulate.outcome import DatabaseBalance, SimulationOutcome, balance_of, outcome_of

_OTHER_FILES: Final = 64
"""Files that a process has open besides its connections."""
_CATCH_UP_S: Final = 10.0
"""Time in which some of the last states reach the database, which nobody acknowledges."""
_AGAIN_S: Final = 0.5

_GC_THRESHOLDS: Final = (50_000, 20, 100)
"""Messages are many short-lived objects without cycles; the default thresholds cost a third of the time."""

ReadTotals = Callable[[], FleetTotals]
"""Returns what the database holds of the fleet now."""


def simulate_fleet(
    options: SimulationOptions,
    model: SimulatedModel,
    access: BrokerAccess,
    *,
    keys: TrustedKeys | None = None,
    read_totals: ReadTotals | None = None,
    on_progress: Callable[[LoadProgress], None] = lambda _: None,
    handle_signals: bool = False,
) -> SimulationOutcome:
    """Run simulated devices, wait for the last acknowledgements, and compare with the database.

    Args:
        options: size and load.
        model: the bundle.
        access: the broker.
        keys: the keys that may sign policies; None: no policies are received.
        read_totals: reads the database; None: nothing is compared.
        on_progress: called about once per second.
        handle_signals: True: SIGINT and SIGTERM end the load; a second one ends the wait for acknowledgements.

    Raises ConfigError if the broker is not reachable or the options need more than this process may use.

    """
    require_supported(access)
    require_descriptors(options.connections)
    before = None if read_totals is None else read_totals()
    load = asyncio.run(_run(options, model, access, keys, on_progress, handle_signals=handle_signals))
    outcome = outcome_of(load)
    if read_totals is None or before is None:
        return outcome
    return msgspec.structs.replace(outcome, database=_compare(load, before, read_totals, on_progress))


def require_descriptors(connections: int) -> None:
    """Let this process open so many connections. Raises ConfigError if the system does not permit it."""
    needed = connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise ConfigError(
                f"--connections {connections} needs {needed} open files, this process may have {hard}; raise the limit "
                f"with `ulimit -n {needed}`, or give fewer connections"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


async def _run(
    options: SimulationOptions,
    model: SimulatedModel,
    access: BrokerAccess,
    keys: TrustedKeys | None,
    on_progress: Callable[[LoadProgress], None],
    *,
    handle_signals: bool,
) -> FleetLoad:
    load = FleetLoad(options, model, access, keys=keys, on_progress=on_progress)
    thresholds = gc.get_threshold()
    gc.set_threshold(*_GC_THRESHOLDS)
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM) if handle_signals else ()
    for number in numbers:
        loop.add_signal_handler(number, load.stop)
    try:
        await load.run()
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
        gc.set_threshold(*thresholds)
    return load


def _compare(
    load: FleetLoad, before: FleetTotals, read_totals: ReadTotals, on_progress: Callable[[LoadProgress], None]
) -> DatabaseBalance:
    """Compare until there is no difference, or the differences have not become fewer for a while."""
    deadline = time.monotonic() + _CATCH_UP_S
    cohort = load.model.bundle, load.options.cohort
    fewest: int | None = None
    while True:
        on_progress(load.progress("comparing"))
        after = read_totals()
        balance = balance_of(compare_fleet(load.ledger, load.members, cohort, before, after), before, after)
        if fewest is None or balance.differences < fewest:
            fewest, deadline = balance.differences, time.monotonic() + _CATCH_UP_S
        if not balance.differences or time.monotonic() >= deadline:
            return balance
        time.sleep(_AGAIN_S)
