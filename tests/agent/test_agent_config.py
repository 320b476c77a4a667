"""Reading agent.toml: defaults, paths, and errors that name the field."""

from pathlib import Path

import pytest

from edgeexit.agent.config import AgentConfig, host_device
from edgeexit.errors import ConfigError
from edgeexit.messages import check_name

FULL = """
fleet = "plant"
shard = "north"
device = "press-7"
cohort = "presses"
state_dir = "state"
trusted_keys = ["keys/calibrator.pub", "/etc/edgeexit/other.pub"]
audit_share = 0.05
report_interval_s = 5
[broker]
url = "mqtts://broker.example:8884"
ca_file = "ca.pem"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "agent.toml"
    path.write_text(text)
    return path


def test_relative_paths_start_at_the_file(tmp_path: Path) -> None:
    config = AgentConfig.load(write(tmp_path, FULL))
    assert config.address == ("plant", "north", "press-7")
    assert config.state_dir == tmp_path / "state"
    assert config.trusted_keys == (tmp_path / "keys/calibrator.pub", Path("/etc/edgeexit/other.pub"))
    assert config.broker.ca_file == str(tmp_path / "ca.pem")
    assert config.broker.endpoint() == ("broker.example", 8884, True)
    assert config.audit_share == 0.05


def test_only_the_fleet_is_needed(tmp_path: Path) -> None:
    config = AgentConfig.load(write(tmp_path, 'fleet = "plant"'))
    assert config.device == host_device()
    assert (config.audit_share, config.report_interval_s) == (0.01, 60.0)
    assert (config.fallback, config.not_finite, config.feedback_window_s) == (False, "refuse", 0.0)
    assert (config.endpoint.enabled, config.endpoint.host, config.endpoint.port) == (None, "127.0.0.1", 8080)
    assert config.state_dir == tmp_path / "state"


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("press-7.plant.example", "press-7-plant-example"),
        ("Müller's Box", "M-ller-s-Box"),
        ("", "device"),
        ("x" * 90, "x" * 64),
    ],
)
def test_the_machine_s_name_is_made_safe(monkeypatch: pytest.MonkeyPatch, name: str, device: str) -> None:
    monkeypatch.setattr("platform.node", lambda: name)
    assert host_device() == check_name("device", device)


def test_broker_and_device_can_be_given_apart(tmp_path: Path) -> None:
    config = AgentConfig.load(write(tmp_path, FULL), broker="mqtt://other:1", device="press-8")
    assert config.broker.endpoint() == ("other", 1, False)
    assert config.device == "press-8"
    assert AgentConfig.load(write(tmp_path, 'fleet = "f"'), broker="mqtt://other:1").broker.url == "mqtt://other:1"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("fleet = ", "not TOML"),
        ("shard = 's'", "fleet"),
        ('fleet = "a/b"', "$.fleet"),
        ('fleet = "f"\nflete = 1', "flete"),
        ('fleet = "f"\nshard = "policy"', "reserved"),
        ('fleet = "f"\naudit_share = 1.5', "$.audit_share"),
        ('fleet = "f"\nreport_interval_s = 0', "$.report_interval_s"),
        ('fleet = "f"\nresend_s = inf', "resend_s"),
        ('fleet = "f"\noutbox_max_bytes = 10', "$.outbox_max_bytes"),
        ('fleet = "f"\ntrusted_keys = "a.pub"', "$.trusted_keys"),
        ('fleet = "f"\ntrusted_keys = [1]', "$.trusted_keys[0]"),
        ('fleet = "f"\nsigned_bundle = true', "trusted_keys"),
        ('fleet = "f"\nbroker = "mqtt://x"', "$.broker"),
        ('fleet = "f"\n[broker]\nurl = "http://x"', "http://x"),
        ('fleet = "f"\n[broker]\nport = 1', "port"),
        ('fleet = "f"\nfeedback_window_s = -1', "$.feedback_window_s"),
        ('fleet = "f"\nfeedback_window_s = inf', "feedback_window_s"),
        ('fleet = "f"\nmax_delay_ms = nan', "max_delay_ms"),
        ('fleet = "f"\nnot_finite = "ignore"', "$.not_finite"),
        ('fleet = "f"\nfallback = "yes"', "$.fallback"),
        ('fleet = "f"\nmax_waiting = 0', "$.max_waiting"),
        ('fleet = "f"\n[endpoint]\nport = 65536', "$.endpoint.port"),
        ('fleet = "f"\n[endpoint]\nhost = ""', "$.endpoint.host"),
        ('fleet = "f"\n[endpoint]\nmax_body_bytes = 10', "$.endpoint.max_body_bytes"),
        ('fleet = "f"\n[endpoint]\nidle_timeout_s = inf', "idle_timeout_s"),
        ('fleet = "f"\n[endpoint]\ntransfer_timeout_s = 0', "$.endpoint.transfer_timeout_s"),
        ('fleet = "f"\n[endpoint]\nmax_requests = 0', "$.endpoint.max_requests"),
        ('fleet = "f"\n[endpoint]\nurl = "x"', "url"),
    ],
)
def test_an_error_names_the_file_and_the_field(tmp_path: Path, text: str, named: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        AgentConfig.load(path)
    assert str(path) in str(caught.value)
    assert named in str(caught.value)


def test_an_unreadable_file_and_a_missing_key_are_named(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b'fleet = "\xff"')
    with pytest.raises(ConfigError, match=r"latin\.toml' is not TOML"):
        AgentConfig.load(tmp_path / "latin.toml")
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        AgentConfig.load(tmp_path / "nowhere.toml")
    config = AgentConfig.load(write(tmp_path, 'fleet = "f"\ntrusted_keys = ["gone.pub"]'))
    with pytest.raises(ConfigError, match=r"gone\.pub"):
        config.load_keys()
