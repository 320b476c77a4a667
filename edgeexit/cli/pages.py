"""Where a command may write a page."""

import os
from pathlib import Path


def require_page(option: str, page: Path, bundle: Path) -> None:
    """Raise DataError, before anything is worked out, for a place where a page cannot or must not be written."""
    from edgeexit.errors import DataError

    if page.suffix.lower() not in {".html", ".htm"}:
        raise DataError(f"{option} '{page}' must be the name of a page, e.g. {option.strip('-')}.html")
    if not page.parent.is_dir():
        raise DataError(f"{option} '{page}': there is no folder '{page.parent}'; make it first")
    if os.path.lexists(page) and not page.is_file():
        raise DataError(f"{option} '{page}' is there and is no file; give another name")
    if page.resolve().is_relative_to(bundle.resolve()):
        raise DataError(f"{option} '{page}' lies inside the bundle, which holds its own files; give another place")
    if not os.access(page.parent, os.W_OK):
        raise DataError(f"{option} '{page}': nothing can be written in '{page.parent.resolve()}'")
