"""docs/protocol.md and docs/protocol/: current, complete, and its commands work."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "protocol.md"
COMMANDS = re.findall(r"```sh\n(cd docs/protocol/golden\n.*?)```", PAGE.read_text(), re.DOTALL)
TOOLS = ("openssl", "jq", "cmp")


def test_tables_asyncapi_and_golden_messages_follow_the_message_types():
    subprocess.run([sys.executable, ROOT / "scripts" / "protocol", "--check"], check=True, cwd=ROOT)


def test_every_field_of_every_message_has_a_meaning():
    rows = re.findall(r"^\| `(\w+)` \| .* \| ((?:`.*`)|required) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    assert len(rows) > 100
    assert [name for name, _, meaning in rows if not meaning.strip()] == []


@pytest.mark.skipif(any(shutil.which(tool) is None for tool in TOOLS), reason=f"needs {', '.join(TOOLS)}")
@pytest.mark.parametrize("command", COMMANDS, ids=["audit", "policy", "command"])
def test_the_commands_of_the_page_verify_and_make_signatures(command, tmp_path):
    command = command.replace("/tmp/", f"{tmp_path}/")  # noqa: S108
    result = subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=ROOT, stdout=-1, text=True, check=True)
    assert result.stdout in {"Signature Verified Successfully\n", "same bytes\n"}
