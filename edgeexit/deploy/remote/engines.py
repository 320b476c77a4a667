"""The step `engines`: build the engines of a release while the old release still serves."""

import os
from pathlib import Path

from edgeexit.deploy.remote.documents import EmptyDocument, EnginesArguments
from edgeexit.deploy.remote.environment import run_program
from edgeexit.deploy.remote.layout import CACHE, RELEASES, operation_lock


def main(root: Path, arguments: EnginesArguments) -> EmptyDocument:
    """Run `edgeexit engines build` in the environment of the release; the engines go to the cache of its agent.

    TensorRT plans that exist are verified and reused, so a second run continues where the first one stopped. Raises
    StepError with the last lines of the output.
    """
    with operation_lock(root):
        run_program(
            "the engines cannot be built",
            *("venv/bin/edgeexit", "engines", "build", "bundle"),
            cwd=root / RELEASES / arguments["release"],
            env={**os.environ, "XDG_CACHE_HOME": str(root / CACHE)},
        )
    return {}
