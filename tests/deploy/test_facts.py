"""The facts of a device: which Python and service manager are chosen, and why a device cannot be used."""

import pytest

from edgeexit.deploy.facts import check_folder, choose_python, choose_service_manager, clock_error_s, parse_facts
from edgeexit.errors import DeployError
from edgeexit.targets import load_target

PI = """motd of a login shell
machine=from the motd
edgeexit-facts
machine=aarch64
user=pi
uid=1000
folder=/home/pi/edgeexit
time=1760000000
writable=yes
systemd_user=yes
cuda=
python=3.11|64|venv,ensurepip|/usr/bin/python3.11
python=3.9|64|venv,ensurepip|/usr/bin/python3.9
python=3.11|64|venv,ensurepip|/usr/bin/python3.11
"""


def facts_of(**changes):
    """Return a Raspberry Pi's facts with changed lines; None removes a line."""
    lines = [line for line in PI.splitlines() if line.split("=")[0] not in changes]
    for key, values in changes.items():
        lines += [f"{key}={value}" for value in (values if isinstance(values, list) else [values]) if value is not None]
    return parse_facts("\n".join(lines))


def python_for(target, **changes):
    return choose_python(facts_of(**changes), target, load_target(target))


def test_the_newest_suitable_python_is_chosen():
    assert python_for("raspberry-pi-5").program == "/usr/bin/python3.11"
    pythons = ["3.13|64|venv|/opt/python3.13", "3.10|64|venv,ensurepip|/usr/bin/python3.10"]
    assert python_for("raspberry-pi-5", python=pythons).version == (3, 10)


@pytest.mark.parametrize(
    ("target", "changes", "expected"),
    [
        ("x86-cpu", {}, "the device is aarch64, target 'x86-cpu' is x86_64"),
        ("raspberry-pi-5", {"machine": "armv7l"}, "the device is armv7l"),
        ("raspberry-pi-5", {"python": ["3.9|64|venv,ensurepip|/p", "3.8|64||/q"]}, "newer; found: 3.9, 3.8"),
        ("raspberry-pi-5", {"python": None}, "found: none"),
        ("raspberry-pi-5", {"python": "3.11|32|venv,ensurepip|/p"}, "32-bit program"),
        ("raspberry-pi-5", {"python": "3.11|64|venv|/p"}, "apt-get install python3.11-venv"),
        ("jetson-orin-nano", {}, "/usr/bin/python3.11 cannot import it"),
    ],
)
def test_an_unsuitable_device_is_refused_with_the_reason(target, changes, expected):
    with pytest.raises(DeployError) as raised:
        python_for(target, **changes)
    assert expected in str(raised.value)
    assert "\n" not in str(raised.value)


def test_on_a_jetson_the_python_that_has_tensorrt_is_chosen():
    pythons = [
        "3.12|64|venv,ensurepip|/usr/local/bin/python3.12",
        "3.10|64|venv,ensurepip,tensorrt|/usr/bin/python3.10",
    ]
    assert python_for("jetson-orin-nano", python=pythons).program == "/usr/bin/python3.10"


def test_the_preferred_service_manager_is_chosen_and_a_missing_one_is_refused():
    assert choose_service_manager(facts_of(systemd="root"), "auto") == "systemd"
    assert choose_service_manager(facts_of(), "auto") == "user"
    assert choose_service_manager(facts_of(systemd_user=None), "auto") == "process"
    assert choose_service_manager(facts_of(), "process") == "process"
    with pytest.raises(DeployError, match=r"--service systemd needs .*offers user, process"):
        choose_service_manager(facts_of(), "systemd")


def test_an_unsuitable_folder_is_refused():
    check_folder(facts_of(folder="/home/jürgen/edge exit@2"))
    for folder in ("/srv/$HOME", "/srv/it's", "/srv/a;b", "/srv/[a]", "/srv/`a`"):
        with pytest.raises(DeployError, match="give a --path"):
            check_folder(facts_of(folder=folder))
    with pytest.raises(DeployError, match="user 'pi' may not write"):
        check_folder(facts_of(writable=None))


@pytest.mark.parametrize("folder", ["/srv/edgeexit/", "/srv//edgeexit", "/srv/x/../edgeexit", "/srv/./edgeexit"])
def test_the_path_of_a_folder_is_normalised(folder):
    assert facts_of(folder=folder).folder == "/srv/edgeexit"


def test_a_clock_error_of_more_than_a_day_is_detected():
    assert clock_error_s(facts_of(), 1760000000 + 60) is None
    assert clock_error_s(facts_of(time=0), 1760000000) == -1760000000


def test_a_device_without_a_shell_is_refused():
    with pytest.raises(DeployError, match="POSIX shell"):
        parse_facts("This account is currently not available.\n")
