"""The agent as a systemd service, with a small program in place of systemctl, and as a plain process.

A test cannot safely start systemd, so the program runs the command in the unit and ignores the unit's sandbox;
test_unit.py checks the sandbox with `systemd-analyze`.
"""

import sys
import time

import pytest

from edgeexit.deploy.remote.layout import StepError, set_current_release
from edgeexit.deploy.remote.service import AgentService

SYSTEMCTL = f"""#!{sys.executable}
import os, pathlib, re, signal, subprocess, sys
here = pathlib.Path(os.environ["HOME"])
words = [word for word in sys.argv[1:] if not word.startswith("--")]
with (here / "calls").open("a") as calls:
    calls.write(" ".join(words) + chr(10))
pid_file = here / "pid"
def alive():
    try:
        pid = int(pid_file.read_text())
        state = pathlib.Path(f"/proc/{{pid}}/stat").read_text().rpartition(")")[2].split()[0]
        return 0 if state == "Z" else pid
    except (OSError, ValueError):
        return 0
if words[0] in ("stop", "restart") and alive():
    os.kill(alive(), signal.SIGTERM)
    while alive():
        pass
if words[0] == "restart":
    unit = (here / ".config/systemd/user" / words[1]).read_text()
    folder = re.search("^WorkingDirectory=(.*)$", unit, re.M)[1]
    command = re.search("^ExecStart=(.*)$", unit, re.M)[1].split()
    process = subprocess.Popen(command, cwd=folder, start_new_session=True, stdin=-3, stdout=-3, stderr=-3)
    pid_file.write_text(str(process.pid))
if words[0] == "show":
    print("ActiveState=" + ("active" if alive() else "failed"), "NRestarts=0", "MainPID=%d" % alive(), sep=chr(10))
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A deployment with one release, whose agent does nothing, and programs in place of systemd's."""
    home, root = tmp_path / "home", tmp_path / "edgeexit"
    home.mkdir()
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {
        "systemctl": SYSTEMCTL,
        "loginctl": "#!/bin/sh\necho Linger=no\n",
        "journalctl": "#!/bin/sh\necho last words\n",
    }.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    release = root / "releases" / "0001-a"
    (release / "venv" / "bin").mkdir(parents=True)
    (release / "venv" / "bin" / "edgeexit").write_text("#!/bin/sh\nexec sleep 600\n")
    (release / "venv" / "bin" / "edgeexit").chmod(0o755)
    write_unit(root, "0001-a")
    set_current_release(root, "0001-a")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    yield root
    AgentService(root, "user", "edgeexit").stop()


def write_unit(root, release, more=""):
    (root / "releases" / release / "edgeexit.service").write_text(
        f"[Service]\nWorkingDirectory={root}/current\nExecStart={root}/current/venv/bin/edgeexit agent bundle\n{more}"
    )


def calls(root):
    return (root.parent / "home" / "calls").read_text().splitlines()


def test_a_unit_is_installed_started_replaced_and_removed(root):
    service = AgentService(root, "user", "edgeexit")
    service.restart()
    first = service.pid()
    assert first is not None
    assert service.restart_count() == 0
    assert service.log_tail(5) == ["last words"]
    assert "enable-linger" in service.warning()
    installed = root.parent / "home" / ".config/systemd/user/edgeexit.service"
    assert installed.read_text() == (root / "current" / "edgeexit.service").read_text()

    write_unit(root, "0001-a", "WatchdogSec=9\n")
    service.restart()
    assert service.pid() not in {None, first}
    assert "WatchdogSec=9" in installed.read_text()
    assert calls(root).count("daemon-reload") == 2
    service.restart()
    assert calls(root).count("daemon-reload") == 2  # the unit has not changed

    service.stop(disable=True)
    assert service.pid() is None
    assert service.restart_count() is None
    assert not installed.exists()
    assert "disable edgeexit.service" in calls(root)


def test_the_unit_of_another_deployment_is_not_touched(root):
    installed = root.parent / "home" / ".config/systemd/user/edgeexit.service"
    installed.parent.mkdir(parents=True)
    installed.write_text("[Service]\nWorkingDirectory=/srv/other/current\n")
    service = AgentService(root, "user", "edgeexit")
    for operation in (service.restart, service.stop, lambda: service.stop(disable=True)):
        with pytest.raises(StepError, match="belongs to another deployment"):
            operation()
    assert "/srv/other" in installed.read_text()
    assert not (root.parent / "home" / "calls").exists()
    installed.unlink()


def test_a_plain_process_is_identified_by_its_lock_and_not_by_its_pid(root):
    service = AgentService(root, "process", "edgeexit")
    service.restart()
    assert service.pid() is not None
    assert service.restart_count() == 0
    again = AgentService(root, "process", "edgeexit")
    again.stop()
    assert again.pid() is None
    assert service.restart_count() is None
    (root / "agent.pid").write_text("1")  # the pid now belongs to another process
    assert service.pid() is None
    service.stop()


def test_a_plain_process_that_exits_leaves_its_log(root):
    program = root / "current" / "venv" / "bin" / "edgeexit"
    program.write_text("#!/bin/sh\necho no such model\nexit 2\n")
    service = AgentService(root, "process", "edgeexit")
    service.restart()
    deadline = time.monotonic() + 30
    while service.pid() is not None:
        assert time.monotonic() < deadline
    assert service.log_tail(5) == ["no such model"]
