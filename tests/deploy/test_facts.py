"""Whether a device fits a bundle, by what it says of itself."""

import pytest

from edgeexit.deploy.facts import check_room, choose_python, choose_supervisor, clock_error_s, parse_facts
from edgeexit.errors import DeployError
from edgeexit.targets import load_target

PI = """motd of a login shell
machine=aarch64
user=pi
uid=1000
folder=/home/pi/edgeexit
time=1760000000
free_kib=900000
writable=yes
systemd_user=yes
cuda=
python=3.11|64|venv,ensurepip|/usr/bin/python3.11
python=3.9|64|venv,ensurepip|/usr/bin/python3.9
python=3.11|64|venv,ensurepip|/usr/bin/python3.11
"""


def told(**changes):
    """A Raspberry Pi's facts with other lines; None takes a line away."""
    lines = [line for line in PI.splitlines() if line.split("=")[0] not in changes]
    for key, values in changes.items():
        lines += [f"{key}={value}" for value in (values if isinstance(values, list) else [values]) if value is not None]
    return parse_facts("\n".join(lines))


def python_for(target, **changes):
    return choose_python(told(**changes), target, load_target(target))


def test_the_newest_python_that_does_is_taken():
    assert python_for("raspberry-pi-5").program == "/usr/bin/python3.11"
    pythons = ["3.13|64|venv|/opt/python3.13", "3.10|64|venv,ensurepip|/usr/bin/python3.10"]
    assert python_for("raspberry-pi-5", python=pythons).version == (3, 10)


@pytest.mark.parametrize(
    ("target", "changes", "words"),
    [
        ("x86-cpu", {}, "the device is aarch64, target 'x86-cpu' is x86_64"),
        ("raspberry-pi-5", {"machine": "armv7l"}, "the device is armv7l"),
        ("raspberry-pi-5", {"python": ["3.9|64|venv,ensurepip|/p", "3.8|64||/q"]}, "newer; found: 3.9, 3.8"),
        ("raspberry-pi-5", {"python": None}, "found: none"),
        ("raspberry-pi-5", {"python": "3.11|32|venv,ensurepip|/p"}, "32 bits"),
        ("raspberry-pi-5", {"python": "3.11|64|venv|/p"}, "apt-get install python3.11-venv"),
        ("jetson-orin-nano", {}, "/usr/bin/python3.11 cannot import it"),
    ],
)
def test_a_device_that_cannot_run_the_bundle_says_why(target, changes, words):
    with pytest.raises(DeployError) as refused:
        python_for(target, **changes)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_jetson_is_taken_with_the_python_that_has_tensorrt():
    pythons = [
        "3.12|64|venv,ensurepip|/usr/local/bin/python3.12",
        "3.10|64|venv,ensurepip,tensorrt|/usr/bin/python3.10",
    ]
    assert python_for("jetson-orin-nano", python=pythons).program == "/usr/bin/python3.10"


def test_the_best_supervisor_is_taken_and_one_that_is_not_there_is_refused():
    assert choose_supervisor(told(systemd="root"), "auto") == "systemd"
    assert choose_supervisor(told(), "auto") == "user"
    assert choose_supervisor(told(systemd_user=None), "auto") == "process"
    assert choose_supervisor(told(), "process") == "process"
    with pytest.raises(DeployError, match=r"--service systemd needs .*offers user, process"):
        choose_supervisor(told(), "systemd")


def test_too_little_room_and_a_folder_that_is_closed():
    check_room(told(), 800 << 20)
    with pytest.raises(DeployError, match="needs 1000 MiB free and has 879 MiB"):
        check_room(told(), 1000 << 20)
    check_room(told(folder="/home/jürgen/edge exit@2"), 0)
    for folder in ("/srv/$HOME", "/srv/it's", "/srv/a;b", "/srv/[a]", "/srv/`a`"):
        with pytest.raises(DeployError, match="give a --path"):
            check_room(told(folder=folder), 0)
    with pytest.raises(DeployError, match="user 'pi' may not write"):
        check_room(told(writable=None), 0)


@pytest.mark.parametrize("folder", ["/srv/edgeexit/", "/srv//edgeexit", "/srv/x/../edgeexit", "/srv/./edgeexit"])
def test_a_folder_has_one_name_however_it_is_written(folder):
    assert told(folder=folder).folder == "/srv/edgeexit"


def test_a_clock_that_is_far_off_is_seen():
    assert clock_error_s(told(), 1760000000 + 60) is None
    assert clock_error_s(told(time=0), 1760000000) == -1760000000


def test_a_device_that_says_nothing():
    with pytest.raises(DeployError, match="POSIX shell"):
        parse_facts("This account is currently not available.\n")
