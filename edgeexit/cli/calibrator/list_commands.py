"""`edgeexit calibrator devices` and `trend`: devices by conditions, and counts over time."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from edgeexit.cli.calibrator import rows, trend_rows
from edgeexit.cli.calibrator.shared_options import DATABASE, WIDE, DatabaseOption, JsonOption
from edgeexit.cli.calibrator.spans import span_of
from edgeexit.console import console, next_step, print_json, print_json_line, print_table, printable
from edgeexit.errors import ConfigError

if TYPE_CHECKING:
    from edgeexit_calibration import DeviceView


def devices_command(
    fleet: Annotated[str | None, typer.Option(help="Only devices of this fleet.")] = None,
    cohort: Annotated[
        str | None, typer.Option(help="Only devices of this cohort: COHORT, FLEET/COHORT or FLEET/BUNDLE/COHORT.")
    ] = None,
    shard: Annotated[str | None, typer.Option(help="Only devices of this shard.")] = None,
    prefix: Annotated[str, typer.Option(help="Only devices whose names begin with this text.")] = "",
    online: Annotated[
        bool | None, typer.Option("--online/--offline", help="Only devices that are connected, or that are not.")
    ] = None,
    revision: Annotated[int | None, typer.Option(help="Only devices that run this revision.", min=0)] = None,
    trouble: Annotated[
        str | None, typer.Option(help="Only devices with this kind of trouble, as `status` names it, e.g. 'problem'.")
    ] = None,
    after: Annotated[
        str | None, typer.Option(help="Continue after this device: FLEET/SHARD/DEVICE, the last one of a page.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Number of devices.", min=1, max=10_000)] = 50,
    everything: Annotated[
        bool, typer.Option("--all", help="Print all devices, one per line, as they are read.")
    ] = False,
    database: DatabaseOption = DATABASE,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line and device.")] = False,
) -> None:
    """List devices in the order of their names: what each runs, its key, and what may need attention.

    Example: `edgeexit calibrator devices --cohort cameras --offline`
    """
    from edgeexit_calibration import DeviceFilter, devices, find_cohorts, iterate_devices, open_database, trouble_of

    if everything and after is not None:
        raise ConfigError("--after cannot be combined with --all, which starts at the first device")
    flag = None if trouble is None else trouble_of(trouble)
    store = open_database(database, create=False)
    address = None if cohort is None else find_cohorts(store, cohort, fleet=fleet)[0]
    where = DeviceFilter(shard=shard, prefix=prefix, cohort=address, revision=revision, online=online, trouble=flag)
    if everything:
        _print_lines(iterate_devices(store, fleet=fleet, where=where), as_json=as_json)
        store.close()
        return
    found = devices(store, fleet=fleet, where=where, after=after, limit=limit)
    store.close()
    if as_json:
        _print_lines(found, as_json=True)
        return
    if not found:
        console.print("no device meets the conditions")
    else:
        is_wide = console.width >= WIDE
        columns = rows.WIDE_DEVICE_COLUMNS if is_wide else rows.DEVICE_COLUMNS
        cells = rows.wide_device_cells if is_wide else rows.device_cells
        print_table("Devices", columns, [cells(device) for device in found])
    if len(found) == limit:
        next_step(f"the same with --after {found[-1].name} for the next page, or with --all")
    else:
        next_step(f"edgeexit calibrator trend --device DEVICE --database {store.name}")


def _print_lines(found: "Iterable[DeviceView]", *, as_json: bool) -> None:
    for device in found:
        if as_json:
            print_json_line(device)
        else:
            console.print(printable("  ".join(cell or "-" for cell in rows.wide_device_cells(device))), soft_wrap=True)


def trend_command(
    cohort: Annotated[str | None, typer.Option(help="A cohort: COHORT, FLEET/COHORT or FLEET/BUNDLE/COHORT.")] = None,
    device: Annotated[str | None, typer.Option(help="A device: DEVICE, SHARD/DEVICE or FLEET/SHARD/DEVICE.")] = None,
    last: Annotated[str, typer.Option(help="How far back, e.g. 24h, 7d or 8w.")] = "24h",
    step: Annotated[str, typer.Option(help="Length of a point, e.g. 15m, 1h or 1d.")] = "1h",
    revision: Annotated[int | None, typer.Option(help="Only samples under this revision.", min=0)] = None,
    database: DatabaseOption = DATABASE,
    as_json: JsonOption = False,
) -> None:
    """Show samples, exit mix and latency over time, of a cohort or of a device.

    Counts of the last day are stored per 15 minutes, those of the last two weeks per hour, older ones per day. Times
    and latencies are those that the devices report; latencies are accurate to about 20 %.

    Example: `edgeexit calibrator trend --cohort cameras --last 7d --step 1h`
    """
    from datetime import datetime, timezone

    from edgeexit_calibration import find_cohorts, open_database, trend

    if (cohort is None) == (device is None):
        raise ConfigError("name either --cohort or --device; `edgeexit calibrator status` lists cohorts")
    until = datetime.now(timezone.utc)
    since, step_s = until - span_of("--last", last), int(span_of("--step", step).total_seconds())
    store = open_database(database, create=False)
    subject = device if device is not None else find_cohorts(store, cohort)[0]
    found = trend(store, subject, since=since, until=until, step_s=step_s, revision=revision)
    store.close()
    if as_json:
        print_json(found)
        return
    name = printable(subject if found.cohort is None or device is None else f"{device} in {found.cohort}")
    if not found.points:
        console.print(f"{name}: no samples in the last {last}; --last 30d looks further back")
    else:
        is_wide = console.width >= WIDE
        columns = trend_rows.COLUMNS if is_wide else trend_rows.NARROW_COLUMNS
        cells = trend_rows.trend_cells if is_wide else trend_rows.narrow_trend_cells
        print_table(f"Trend of {name}", columns, [cells(point) for point in found.points])
        legend = ", ".join(f"{digit} = {name}" for digit, name in zip(trend_rows.DIGITS, found.exits, strict=False))
        console.print(f"exits: {printable(legend)}", soft_wrap=True)
    if found.step_s != step_s:
        console.print(f"A point of {step} does not consist of full buckets; the step is {found.step_s // 60} min.")
    if found.is_coarser:
        console.print("Older counts are stored in longer spans; see the column 'span'.")
    next_step(f"edgeexit calibrator history --database {store.name}")
