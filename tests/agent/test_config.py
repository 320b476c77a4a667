"""Reading agent.toml: defaults, paths, and errors that name the field."""

from pathlib import Path

import pytest

from edgeexit.agent.config import AgentConfig, host_device
from edgeexit.errors import ConfigError
from edgeexit.signing import generate_key, load_public_key
from edgeexit.wire import check_name

FULL = """
fleet = "plant"
shard = "north"
device = "press-7"
cohort = "presses"
state_dir = "state"
trusted_keys = ["keys/calibrator.pub", "/etc/edgeexit/other.pub"]
audit_fraction = 0.05
report_interval_s = 5
[broker]
url = "mqtts://broker.example:8884"
ca_file = "ca.pem"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "agent.toml"
    path.write_text(text)
    return path


def test_relative_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    config = AgentConfig.load(write(tmp_path, FULL))
    assert config.address == ("plant", "north", "press-7")
    assert config.state_dir == tmp_path / "state"
    assert config.trusted_keys == (tmp_path / "keys/calibrator.pub", Path("/etc/edgeexit/other.pub"))
    assert config.broker.ca_file == str(tmp_path / "ca.pem")
    assert config.broker.endpoint()[:3] == ("broker.example", 8884, True)
    assert config.audit_fraction == 0.05


def test_only_the_fleet_is_required(tmp_path: Path) -> None:
    config = AgentConfig.load(write(tmp_path, 'fleet = "plant"'))
    assert config.device == host_device()
    assert (config.audit_fraction, config.report_interval_s) == (0.01, 60.0)
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
def test_the_host_name_is_made_a_valid_device_name(monkeypatch: pytest.MonkeyPatch, name: str, device: str) -> None:
    monkeypatch.setattr("platform.node", lambda: name)
    assert host_device() == check_name("device", device)


def test_broker_and_device_can_be_overridden(tmp_path: Path) -> None:
    config = AgentConfig.load(write(tmp_path, FULL), broker="mqtts://other:1", device="press-8")
    assert config.broker.endpoint()[:3] == ("other", 1, True)
    assert config.device == "press-8"
    assert AgentConfig.load(write(tmp_path, 'fleet = "f"'), broker="mqtt://other:1").broker.url == "mqtt://other:1"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("fleet = ", "line 1: not valid TOML"),
        ("shard = 's'", "fleet"),
        ('fleet = "a/b"', 'line 1: fleet = "a/b": it must be 1 to 64 characters of A-Z'),
        ('fleet = "f"\nflete = 1', "line 2: unknown field 'flete'; did you mean 'fleet'?"),
        ('fleet = "f"\nshard = "policy"', "line 2: shard = \"policy\" is not valid: shard 'policy' is reserved"),
        ('fleet = "f"\naudit_fraction = 1.5', "line 2: audit_fraction = 1.5: expected float <= 1.0"),
        ('fleet = "f"\nreport_interval_s = 0', "report_interval_s = 0: expected float > 0.0"),
        ('fleet = "f"\nresend_s = inf', "line 2: resend_s = inf must be finite"),
        ('fleet = "f"\noutbox_max_bytes = 10', "outbox_max_bytes = 10: expected int >= 65536"),
        ('fleet = "f"\ntrusted_keys = "a.pub"', 'trusted_keys = "a.pub": expected array'),
        ('fleet = "f"\ntrusted_keys = [1]', "trusted_keys = [1]: expected a path, got 1"),
        ('fleet = "f"\nendpoint.socket = "a\\u0000b"', r"expected a path, got 'a\x00b'"),
        ('fleet = "f"\nbroker.ca_file = "a\\u0000b"', "ca_file = "),
        ('fleet = "f"\nendpoint.max_connections = 99999999999', "max_connections = 99999999999: expected int <= 65536"),
        ('fleet = "f"\nsigned_bundle = true', "line 2: signed_bundle = true needs trusted_keys or bundle_keys"),
        ('fleet = "f"\nbundle_keys = ["a.pub"]', "needs signed_bundle = true; otherwise no bundle is checked"),
        ('fleet = "f"\nbroker = "mqtt://x"', 'line 2: broker = "mqtt://x": expected a table'),
        (
            'fleet = "f"\n[broker]\nurl = "http://x"',
            "line 3: url = \"http://x\" is not valid: broker url 'http://x' must be mqtt://",
        ),
        ('fleet = "f"\n[broker]\nport = 1', "line 3: unknown field 'port' in [broker]"),
        (
            'fleet = "f"\n[broker]\nurl = "mqtt://me:secret@x"',
            "line 2: [broker]: a broker url must not contain credentials",
        ),
        ('fleet = "f"\nconfirm_within_s = 0', "confirm_within_s = 0: expected float > 0.0"),
        ('fleet = "f"\npolicy_trial_s = inf', "line 2: policy_trial_s = inf must be finite"),
        ('fleet = "f"\npolicy_threshold = 0', "policy_threshold = 0: expected int >= 1"),
        (
            'fleet = "f"\ntrusted_keys = ["a.pub"]\npolicy_threshold = 2',
            "line 3: policy_threshold = 2 is more than the 1 keys in trusted_keys and policy_keys",
        ),
        ('[broker]\nfleet = "f"', "line 2: unknown field 'fleet' in [broker]; it belongs above the first [table]"),
        ('fleet = "f"\nfeedback_window_s = -1', "feedback_window_s = -1: expected float >= 0.0"),
        ('fleet = "f"\nfeedback_window_s = inf', "feedback_window_s"),
        ('fleet = "f"\nmax_delay_ms = nan', "line 2: max_delay_ms = nan: expected float >= 0.0"),
        (
            'fleet = "f"\nnot_finite = "ignore"',
            "line 2: not_finite = \"ignore\": 'ignore' is not one of pass, refuse",
        ),
        ('fleet = "f"\nfallback = "yes"', 'fallback = "yes": expected bool'),
        ('fleet = "f"\nmax_waiting = 0', "max_waiting = 0: expected int >= 1"),
        ('fleet = "f"\n[endpoint]\nport = 65536', "line 3: port = 65536: expected int <= 65535"),
        ('fleet = "f"\n[endpoint]\nhost = ""', "host = "),
        ('fleet = "f"\n[endpoint]\nmax_body_bytes = 10', "max_body_bytes = 10: expected int >= 1024"),
        ('fleet = "f"\n[endpoint]\nidle_timeout_s = inf', "line 3: idle_timeout_s = inf must be finite"),
        ('fleet = "f"\n[endpoint]\ntransfer_timeout_s = 0', "transfer_timeout_s = 0: expected float > 0.0"),
        ('fleet = "f"\n[endpoint]\nmax_requests = 0', "max_requests = 0: expected int >= 1"),
        ('fleet = "f"\n[endpoint]\nurl = "x"', "unknown field 'url' in [endpoint]; it belongs in [broker]"),
    ],
)
def test_an_error_names_the_file_and_the_field(tmp_path: Path, text: str, named: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        AgentConfig.load(path)
    assert str(path) in str(caught.value)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("device", "a b", "--device 'a b' must be 1 to 64 characters of A-Z"),
        ("broker", "foo", "--broker: broker url 'foo' must be mqtt://HOST"),
        ("broker", "mqtt://me:secret@x", "--broker: a broker url must not contain credentials"),
    ],
)
def test_the_error_for_a_wrong_option_names_the_option_not_the_file(
    tmp_path: Path, option: str, value: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        AgentConfig.load(write(tmp_path, FULL), **{option: value})
    assert str(caught.value).startswith(message)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_not_a_public_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "some.pub").write_text("no key")
    config = AgentConfig.load(write(tmp_path, 'fleet = "f"\ntrusted_keys = ["some.pub"]'))
    with pytest.raises(
        ConfigError, match=r"some\.pub' is not a public key; use the \.pub file that `edgeexit keygen` created$"
    ):
        config.load_keys()


def test_missing_broker_files_are_warnings(tmp_path: Path) -> None:
    files = 'certificate_file = "k"\nkey_file = "k"\nusername = "u"\npassword_file = "p"'
    config = AgentConfig.load(write(tmp_path, FULL + files))
    (tmp_path / "k").touch()
    warnings = list(config.broker_warnings())
    assert [line.split(" cannot")[0] for line in warnings] == [
        f"broker.ca_file '{tmp_path / 'ca.pem'}'",
        f"broker.password_file '{tmp_path / 'p'}'",
    ]
    with pytest.raises(ConfigError, match=r"ca_file and certificate_file and key_file cannot be used with 'mqtt://x'"):
        AgentConfig.load(tmp_path / "agent.toml", broker="mqtt://x")


def test_a_password_that_is_sent_without_encryption_is_a_warning(tmp_path: Path) -> None:
    text = 'fleet = "f"\n[broker]\nurl = "mqtt://broker.example"\nusername = "u"\npassword_file = "p"\n'
    (tmp_path / "p").write_text("secret")
    config = AgentConfig.load(write(tmp_path, text))
    (warning,) = config.broker_warnings()
    assert "'broker.example' is sent without encryption" in warning
    assert "mqtts://" in warning


def test_an_unreadable_file_and_a_missing_key_are_named(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b'fleet = "\xff"')
    with pytest.raises(ConfigError, match=r"latin\.toml', line 1: not text in UTF-8"):
        AgentConfig.load(tmp_path / "latin.toml")
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        AgentConfig.load(tmp_path / "nowhere.toml")
    config = AgentConfig.load(write(tmp_path, 'fleet = "f"\ntrusted_keys = ["gone.pub"]'))
    with pytest.raises(ConfigError, match=r"trusted_keys: public key '.*gone\.pub"):
        config.load_keys()


def test_each_role_has_its_keys_and_trusted_keys_have_every_role(tmp_path: Path) -> None:
    every, policy, bundle, command = (
        load_public_key(generate_key(tmp_path / f"{name}.key")) for name in ("e", "p", "b", "c")
    )
    config = AgentConfig.load(
        write(
            tmp_path,
            'fleet = "f"\nsigned_bundle = true\ntrusted_keys = ["e.pub"]\npolicy_keys = ["p.pub"]\n'
            'bundle_keys = ["b.pub"]\ncommand_keys = ["c.pub"]\npolicy_threshold = 2',
        )
    )
    keys = config.load_keys()
    assert keys.keys("root") == (every,)
    assert (keys.keys("policy"), keys.threshold("policy")) == ((every, policy), 2)
    assert (keys.keys("bundle"), keys.threshold("bundle")) == ((every, bundle), 1)
    assert (keys.keys("command"), keys.threshold("command")) == ((every, command), 1)
