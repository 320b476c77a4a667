"""docs/security.md: its commands work in the order in which the page gives them."""

import re
import shlex
import shutil
from pathlib import Path

from edgeexit.agent.fleet_link.identity import DeviceIdentity

PAGE = Path(__file__).parents[3] / "docs" / "security.md"
NEED_A_FLEET = ("edgeexit calibrator", "chown", "mosquitto", "edgeexit keys disconnect")
"""Commands that need a broker or a calibrator; test_broker_security.py has both."""


def commands():
    text = PAGE.read_text().replace("\\\n", " ")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    indented = re.findall(r"^ {8}(edgeexit .*)$", text, re.MULTILINE)
    return [line for block in (*blocks, *indented) for line in block.splitlines() if line.strip()]


def test_the_commands_of_the_page_work_in_their_order(edgeexit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "state").mkdir()
    DeviceIdentity(tmp_path / "state")
    for name in "abc":
        edgeexit("keygen", f"{name}.key")
    ran = []
    for command in commands():
        words = shlex.split(command.replace("/var/lib/edgeexit/state", "state"))
        if command.startswith(NEED_A_FLEET):
            continue
        if words[0] == "cd":
            monkeypatch.chdir(words[1])
            for key in tmp_path.glob("[abc].*"):
                if not Path(key.name).exists():
                    shutil.copy(key, ".")
            continue
        if words[0] == "cp":
            shutil.copy(words[1], words[2])
            continue
        outcome = edgeexit(*words[1:])
        assert (outcome.code, outcome.err) == (0, ""), command
        ran.append(command)
    assert len(ran) >= 14


def test_every_command_that_the_page_names_exists(edgeexit):
    text = PAGE.read_text()
    for name in sorted(set(re.findall(r"`?edgeexit keys ((?:set )?[a-z]+)", text))):
        assert edgeexit("keys", *name.split(), "--help").code == 0, name
