"""Writes the table of policies in docs/policies.md from the registry of kinds.

    python scripts/policy_table.py [--check]

With `--check`, nothing is written; the exit code is 1 if the table in the file differs from the registry.
"""

import argparse
import sys
from pathlib import Path

from edgeexit.fitting import FITTING_KINDS

PAGE = Path(__file__).parent.parent / "docs" / "policies.md"
BEGIN = "<!-- begin of the table that scripts/policy_table.py writes -->\n"
END = "<!-- end of the table -->\n"


def policy_table() -> str:
    """Return the table of all registered kinds in Markdown, the simplest kind first."""
    rows = [
        "| kind | score at exit k | fitted besides the thresholds | source |",
        "|---|---|---|---|",
        *(
            f"| `{name}` | {kind.summary} | {', '.join(kind.learns) or '-'} | {kind.source or '-'} |"
            for name, kind in FITTING_KINDS.items()
        ),
    ]
    return "".join(f"{row}\n" for row in rows)


def with_table(page: str, table: str) -> str:
    """Return the page with `table` between its two markers."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}{table}{END}{after}"


def main() -> None:
    """Write or check the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, and fail if the table is out of date")
    check = parser.parse_args().check
    page = PAGE.read_text(encoding="utf-8")
    current = with_table(page, policy_table())
    if not check:
        PAGE.write_text(current, encoding="utf-8")
    elif page != current:
        sys.exit("the table in docs/policies.md differs from the registry; run scripts/policy_table.py")


if __name__ == "__main__":
    main()
