"""What else a machine does during a measurement: from recorded counters, and on this machine."""

import os
import subprocess
import sys
import time

import pytest

from edgeexit.telemetry import LoadMeter

CORES = 2
THREAD = "7"


def write(root, *, ticks, schedstat=None, load="0.50", stat=None):
    """Write the counters of two cores; `ticks` is user, nice, system, idle, iowait, irq, softirq, steal of each."""
    (root / "proc/self/task" / THREAD).mkdir(parents=True, exist_ok=True)
    lines = ["cpu 0 0 0 0 0 0 0 0 0 0", *(f"cpu{k} {' '.join(map(str, ticks))} 0 0" for k in range(CORES)), "ctxt 1"]
    (root / "proc/stat").write_text("\n".join(lines))
    (root / "proc/loadavg").write_text(f"{load} 0.10 0.05 1/100 4242\n")
    if schedstat is not None:
        (root / "proc/self/task" / THREAD / "schedstat").write_text(schedstat)
    if stat is not None:
        (root / "proc/self/cgroup").write_text("0::/pod/app\n")
        (root / "sys/fs/cgroup/pod/app").mkdir(parents=True, exist_ok=True)
        (root / "sys/fs/cgroup/pod/app/cpu.stat").write_text(stat)


@pytest.fixture
def clocks(monkeypatch):
    """Let a measurement last 10 s, in which this process uses one core, on a machine with two cores."""
    times = iter((0.0, 10.0))
    own = iter((0.0, 10.0))
    monkeypatch.setattr(time, "monotonic", lambda: next(times))
    monkeypatch.setattr(time, "process_time", lambda: next(own))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(CORES)), raising=False)


@pytest.mark.usefixtures("clocks")
def test_the_counters_of_the_kernel_give_fractions(tmp_path):
    write(tmp_path, ticks=(100, 0, 50, 1000, 10, 0, 0, 5), schedstat="1000 100 5", load="0.50",
          stat="usage_usec 1\nnr_periods 100\nnr_throttled 10\nthrottled_usec 5\n")  # fmt: skip
    meter = LoadMeter(tmp_path)
    write(tmp_path, ticks=(750, 0, 150, 1200, 10, 0, 0, 55), schedstat="8001000 2000100 9", load="1.75",
          stat="usage_usec 9\nnr_periods 200\nnr_throttled 30\nthrottled_usec 9\n")  # fmt: skip
    load = meter.stop()
    # Each core: 650 + 100 ticks busy, 200 idle, 50 stolen.
    assert load.cores == CORES
    assert load.own_cores == 1
    assert load.other_cores == pytest.approx(2 * 750 / 1000 - 1)
    assert load.stolen == pytest.approx(50 / 800)
    assert load.waited == pytest.approx(0.2)
    assert load.quota_periods == pytest.approx(0.2)
    assert (load.load_before, load.load_after) == (0.5, 1.75)


@pytest.mark.usefixtures("clocks")
def test_only_the_cores_that_this_process_may_use_count(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1}, raising=False)
    write(tmp_path, ticks=(0,) * 8)
    meter = LoadMeter(tmp_path)
    (tmp_path / "proc/stat").write_text("cpu0 9000 0 0 0 0 0 0 0 0 0\ncpu1 1000 0 0 0 0 0 0 0 0 0\n")
    assert meter.stop().other_cores == 0
    assert meter._cores == {1}


@pytest.mark.usefixtures("clocks")
def test_without_the_files_of_the_kernel_the_load_is_unknown_and_not_zero(tmp_path):
    load = LoadMeter(tmp_path).stop()
    for name in ("other_cores", "stolen", "waited", "quota_periods", "load_before", "load_after"):
        assert getattr(load, name) is None, name


@pytest.mark.parametrize("version", ["v2", "v1", "v1 with its own name"])
def test_the_quota_of_a_group_around_the_process_counts_too(tmp_path, version):
    line, base = {
        "v2": ("0::/pod/app", "sys/fs/cgroup"),
        "v1": ("4:memory:/x\n3:cpu,cpuacct:/pod/app", "sys/fs/cgroup/cpu,cpuacct"),
        "v1 with its own name": ("1:cpu:/pod/app\n1:name=systemd:/", "sys/fs/cgroup/cpu"),
    }[version]
    write(tmp_path, ticks=(0,) * 8)
    (tmp_path / "proc/self/cgroup").write_text(line)
    (tmp_path / base / "pod/app").mkdir(parents=True)
    (tmp_path / base / "pod/app/cpu.stat").write_text("nr_periods 0\nnr_throttled 0\n")  # no quota
    outer = tmp_path / base / "pod/cpu.stat"
    outer.write_text("nr_periods 10\nnr_throttled 0\n")
    meter = LoadMeter(tmp_path)
    outer.write_text("nr_periods 20\nnr_throttled 4\n")
    assert meter.stop().quota_periods == pytest.approx(0.4)


def test_on_this_machine_another_program_on_the_same_core_makes_the_process_wait():
    core = min(os.sched_getaffinity(0))
    before = os.sched_getaffinity(0)
    busy = [sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{core}}}); print(flush=True)\nwhile 1: pass"]
    with subprocess.Popen(busy, stdout=subprocess.PIPE) as other:
        try:
            other.stdout.readline()
            os.sched_setaffinity(0, {core})
            meter = LoadMeter()
            end = time.monotonic() + 0.5
            while time.monotonic() < end:
                pass
            load = meter.stop()
        finally:
            os.sched_setaffinity(0, before)
            other.kill()
    assert load.cores == 1
    assert load.other_cores > 0.1
    assert load.waited is None or load.waited > 0.1
