"""Builds the TensorRT plans of a release before it is switched to, so that the old one serves meanwhile."""

import os
from pathlib import Path
from typing import Any

from edgeexit.deploy.remote.environment import run
from edgeexit.deploy.remote.layout import CACHE, RELEASES, answer, operation


def main(arguments: dict[str, Any]) -> None:
    """Let the release's own environment build them into the cache of its agent; what is there is only checked.

    Plans are kept stage by stage, so that another try goes on there. Refuses with the builder's own last words.
    """
    root = Path(arguments["root"])
    with operation(root):
        run(
            "the TensorRT plans cannot be built",
            *("venv/bin/edgeexit", "engines", "build", "bundle"),
            cwd=root / RELEASES / arguments["release"],
            env={**os.environ, "XDG_CACHE_HOME": str(root / CACHE)},
        )
    answer()
