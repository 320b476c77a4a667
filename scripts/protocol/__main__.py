"""Writes what docs/protocol.md and docs/protocol/ say about the messages from the message types.

    python scripts/protocol [--check]

It writes the tables of docs/protocol.md, docs/protocol/asyncapi.yaml, and the golden messages in
docs/protocol/golden. With `--check`, nothing is written; the exit code is 1 if a file is out of date.
"""

import argparse
import sys
from pathlib import Path

from asyncapi import asyncapi_document
from golden import golden_files
from tables import with_tables

DOCS = Path(__file__).parent.parent.parent / "docs"


def current_files() -> dict[Path, bytes]:
    """Return the path and the current content of every generated file."""
    page, folder = DOCS / "protocol.md", DOCS / "protocol"
    found = {
        page: with_tables(page.read_text(encoding="utf-8")).encode(),
        folder / "asyncapi.yaml": asyncapi_document().encode(),
    }
    return found | {folder / "golden" / name: content for name, content in golden_files().items()}


def main() -> None:
    """Write or check the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, and fail if a file is out of date")
    check = parser.parse_args().check
    files = current_files()
    obsolete = set((DOCS / "protocol" / "golden").rglob("*.*")) - files.keys()
    outdated = [path for path, content in files.items() if not path.exists() or path.read_bytes() != content]
    if check and (outdated or obsolete):
        names = ", ".join(str(path.relative_to(DOCS)) for path in sorted({*outdated, *obsolete}))
        sys.exit(f"out of date in docs/: {names}; run python scripts/protocol")
    if not check:
        for path in outdated:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(files[path])
        for path in obsolete:
            path.unlink()


if __name__ == "__main__":
    main()
