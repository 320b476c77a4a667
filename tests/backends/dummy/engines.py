"""The engine builder of the dummy backend: an engine is a file that names its stage."""

import os
import tempfile
from pathlib import Path

from edgeexit.progress import NO_PROGRESS


def engines_folder(bundle):
    return Path(os.environ.get("XDG_CACHE_HOME") or tempfile.gettempdir()) / "dummy-engines" / bundle.digest


def check_stages(_folder, _stages, *, progress=NO_PROGRESS):
    return None


def build_missing_engines(bundle, *, progress=NO_PROGRESS):
    folder = engines_folder(bundle)
    folder.mkdir(parents=True, exist_ok=True)
    missing = [stage for stage in bundle.manifest.stages if not (folder / stage.name).exists()]
    for stage in missing:
        progress.step(stage.name)
        (folder / stage.name).write_text(stage.file)
    return bool(missing)
