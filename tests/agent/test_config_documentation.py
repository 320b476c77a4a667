"""docs/agent.md documents exactly the fields of the configuration."""

import re
from pathlib import Path

import msgspec

from edgeexit.agent import AgentConfig, EndpointConfig

PAGE = Path(__file__).parents[2] / "docs" / "agent.md"


def test_the_documentation_lists_exactly_the_fields(tmp_path):
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    path = tmp_path / "agent.toml"
    path.write_text(re.sub(r"^# (?=\w+ = )", "", text, flags=re.MULTILINE))
    config = AgentConfig.load(path)
    documented = msgspec.toml.decode(path.read_bytes())
    assert set(documented) == set(AgentConfig.__struct_fields__)
    assert set(documented["endpoint"]) == set(EndpointConfig.__struct_fields__)
    assert set(documented["broker"]) == set(type(config.broker).__struct_fields__)
