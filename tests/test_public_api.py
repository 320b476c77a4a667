"""The public API changes only on purpose."""

import difflib

from tests.public_api import FROZEN, MODULES, describe


def test_the_public_api_is_as_frozen():
    frozen, now = FROZEN.read_text().splitlines(), describe().splitlines()
    changes = "\n".join(difflib.unified_diff(frozen, now, "frozen", "now", lineterm=""))
    hint = "if this is on purpose, run `.venv/bin/python -m tests.public_api`, and describe it in CHANGELOG.md"
    assert not changes, f"the public API changed; {hint}\n{changes}"


def test_every_documented_module_has_public_names():
    sections = [section.split("\n") for section in FROZEN.read_text().rstrip("\n").split("\n\n")]
    assert [name for name, *_ in sections] == list(MODULES)
    assert [name for name, *exported in sections if not exported] == []
