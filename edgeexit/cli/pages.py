"""Check the path of a report page before a command starts its work."""

import os
from pathlib import Path


def require_page(option: str, page: Path, bundle: Path) -> None:
    """Raise DataError if an HTML page cannot or must not be written to `page`, the value of the option `option`."""
    from edgeexit.errors import DataError

    if page.suffix.lower() not in {".html", ".htm"}:
        raise DataError(f"{option} '{page}' must have the suffix .html, e.g. {option.strip('-')}.html")
    if not page.parent.is_dir():
        raise DataError(f"{option} '{page}': the folder '{page.parent}' does not exist; create it first")
    if os.path.lexists(page) and not page.is_file():
        raise DataError(f"{option} '{page}' exists and is not a regular file; give another name")
    if page.resolve().is_relative_to(bundle.resolve()):
        raise DataError(f"{option} '{page}' is inside the bundle folder; give a path outside of it")
    if not os.access(page.parent, os.W_OK):
        raise DataError(f"{option} '{page}': the folder '{page.parent.resolve()}' is not writable; give another path")
