"""Measures what else a machine does while something is measured: other programs, other virtual machines, and quotas."""

import os
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from edgeexit.formatting import percent
from edgeexit.telemetry.sysfs import read_text

_BUSY: Final = (0, 1, 2, 5, 6)
"""Columns of a `cpu` line of /proc/stat: user, nice, system, irq, softirq. Guests are part of user and nice."""
_STEAL: Final = 7
_COLUMNS: Final = 8
_CGROUP_FIELDS: Final = 3


class MachineLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine did during a measurement, on the cores that this process may use. An unknown value is null."""

    seconds: float
    """Duration of the measurement."""
    cores: int
    """Number of cores that this process may use."""
    own_cores: float
    """Mean number of cores that this process used."""
    other_cores: float | None = None
    """Mean number of these cores that other programs used."""
    stolen: float | None = None
    """Of the time in which programs were ready to run on these cores, the fraction that the hypervisor gave to other
    virtual machines (steal)."""
    waited: float | None = None
    """Of the time in which the threads of this process were ready to run, the fraction in which they waited for a
    core."""
    quota_periods: float | None = None
    """Fraction of the scheduler's periods in which the processor quota of this container was used up; null without a
    quota."""
    load_before: float | None = None
    """Load average over one minute when the measurement began."""
    load_after: float | None = None

    def __str__(self) -> str:
        """Return one line with the known values."""
        texts = [f"this process used {self.own_cores:.2f} of {self.cores} cores"]
        if self.other_cores is not None:
            texts.append(f"other programs {self.other_cores:.2f}")
        for what, fraction in (
            ("waiting for a core", self.waited),
            ("steal", self.stolen),
            ("periods with the quota used up", self.quota_periods),
        ):
            if fraction is not None:
                texts.append(f"{what} {percent(fraction)}")
        if self.load_before is not None and self.load_after is not None:
            texts.append(f"load average {self.load_before:g} before, {self.load_after:g} after")
        return ", ".join(texts)


class _Snapshot(NamedTuple):
    """The counters at one moment."""

    monotonic_s: float
    own_s: float
    cores: Mapping[str, tuple[int, ...]]
    """Core -> columns of /proc/stat, in ticks."""
    threads: Mapping[str, tuple[int, int]]
    """Thread -> nanoseconds on a core, nanoseconds of waiting for a core."""
    periods: Mapping[Path, tuple[int, int]]
    """Control group -> periods, periods in which its quota was used up."""
    load: float | None


class LoadMeter:
    """Compares the counters of the kernel at the end of a measurement with those at its start.

    Args:
        root: folder that contains `proc` and `sys`; `/` on a real machine.

    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
        self._groups = tuple(_quota_files(root))
        self._start = self._snapshot()

    def stop(self) -> MachineLoad:
        """Return the load since the meter was created."""
        start, end = self._start, self._snapshot()
        seconds = max(end.monotonic_s - start.monotonic_s, 1e-9)
        own_cores = (end.own_s - start.own_s) / seconds
        busy, stolen, total = _core_ticks(start.cores, end.cores)
        ran, waited = _thread_times(start.threads, end.threads)
        cores = len(end.cores) or len(self._cores)
        return MachineLoad(
            seconds=round(seconds, 3),
            cores=cores,
            own_cores=round(own_cores, 3),
            other_cores=round(max(cores * busy / total - own_cores, 0.0), 3) if total else None,
            stolen=round(stolen / max(busy + stolen, 1), 4) if total else None,
            waited=round(waited / (ran + waited), 4) if ran + waited else None,
            quota_periods=_quota_periods(start.periods, end.periods),
            load_before=start.load,
            load_after=end.load,
        )

    def _snapshot(self) -> _Snapshot:
        proc = self._root / "proc"
        load = (read_text(proc / "loadavg") or "").split()
        return _Snapshot(
            time.monotonic(),
            time.process_time(),
            dict(_cores(read_text(proc / "stat") or "", self._cores)),
            dict(_threads(proc / "self/task")),
            {path: found for path in self._groups if (found := _periods(path)) is not None},
            float(load[0]) if load else None,
        )


def _cores(stat: str, numbers: Collection[int]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the name and the counters of each of the cores."""
    names = {f"cpu{number}" for number in numbers}
    for line in stat.splitlines():
        name, *columns = line.split()
        if name in names and len(columns) >= _COLUMNS:
            yield name, tuple(map(int, columns[:_COLUMNS]))


def _core_ticks(start: Mapping[str, tuple[int, ...]], end: Mapping[str, tuple[int, ...]]) -> tuple[int, int, int]:
    """Return the ticks that all cores together were busy and stolen, and all their ticks."""
    rows = [
        [max(now - before, 0) for before, now in zip(start[name], columns, strict=True)]  # idle and iowait may decrease
        for name, columns in end.items()
        if name in start
    ]
    busy = sum(row[column] for row in rows for column in _BUSY)
    return busy, sum(row[_STEAL] for row in rows), sum(map(sum, rows))


def _threads(folder: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield each thread of this process with its times on a core and of waiting for one."""
    for task in folder.glob("[0-9]*"):
        times = (read_text(task / "schedstat") or "").split()  # a thread may end at any time
        if len(times) > 1:
            yield task.name, (int(times[0]), int(times[1]))


def _thread_times(start: Mapping[str, tuple[int, int]], end: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    """Return the nanoseconds on a core and of waiting, over the threads that still exist."""
    known = [start.get(name, (0, 0)) for name in end]
    ran = sum(now for now, _ in end.values()) - sum(before for before, _ in known)
    waited = sum(now for _, now in end.values()) - sum(before for _, before in known)
    return ran, waited


def _quota_files(root: Path) -> Iterator[Path]:
    """Yield `cpu.stat` of this process's control group and of the groups around it, of cgroup v2 and v1."""
    for line in (read_text(root / "proc/self/cgroup") or "").splitlines():
        fields = line.split(":", _CGROUP_FIELDS - 1)
        if len(fields) < _CGROUP_FIELDS or not (fields[1] == "" or "cpu" in fields[1].split(",")):
            continue
        base = root / "sys/fs/cgroup" / fields[1]
        group = base / fields[2].lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(base):
                yield folder / "cpu.stat"


def _periods(path: Path) -> tuple[int, int] | None:
    """Return the periods of a control group, and those in which its quota was used up; None without a quota."""
    lines = (line.split() for line in (read_text(path) or "").splitlines())
    values = {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdigit()}
    if not values.get("nr_periods"):
        return None
    return values["nr_periods"], values.get("nr_throttled", 0)


def _quota_periods(start: Mapping[Path, tuple[int, int]], end: Mapping[Path, tuple[int, int]]) -> float | None:
    """Return the highest fraction of throttled periods of any of the control groups."""
    fractions = []
    for path, (periods, throttled) in end.items():
        before, throttled_before = start.get(path, (0, 0))
        if periods > before:
            fractions.append((throttled - throttled_before) / (periods - before))
    return round(max(fractions), 4) if fractions else None
