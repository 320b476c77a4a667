"""Writes the tables about the guarantee over time in docs/policies.md: audits until an alarm, and until a certificate.

    python scripts/promise_table.py [--check]

With `--check`, nothing is written; the exit code is 1 if the tables in the file differ from what the code computes.
"""

import argparse
import sys
from pathlib import Path

import msgspec
import numpy as np
from edgeexit_calibration.recalibrate.tracked_path import path_delta

from edgeexit.fitting.change_monitor import detection_bound, new_monitor
from edgeexit.fitting.path_test import new_path_test, samples_to_certify

PAGE = Path(__file__).parent.parent / "docs" / "policies.md"
BEGIN = "<!-- begin of the tables that scripts/promise_table.py writes -->\n"
END = "<!-- end of these tables -->\n"

RISKS = (0.01, 0.02, 0.05, 0.1)
DELTA, ALPHA = 0.1, 0.01
FACTORS = (1.5, 2, 3, 5)
OBSERVED = (0, 0.25, 0.5, 0.75)


def detection_table() -> str:
    """Return the detection bounds, for a change at the first audit and after 10,000 audits."""
    rows = [
        "| `--max-risk` | " + " | ".join(f"risk rises to {factor:g} times as much" for factor in FACTORS) + " |",
        "|---|" + "---|" * len(FACTORS),
    ]
    for risk in RISKS:
        cells = []
        for factor in FACTORS:
            young = new_monitor(risk, alpha=ALPHA)
            old = msgspec.structs.replace(young, samples=10_000)
            bounds = [detection_bound(monitor, factor * risk, delta=DELTA) for monitor in (young, old)]
            cells.append(" to ".join("never" if bound is None else f"{bound:,}" for bound in bounds))
        rows.append(f"| {100 * risk:g} % | {' | '.join(cells)} |")
    return "".join(f"{row}\n" for row in rows)


def certification_table() -> str:
    """Return the audits that the first path of an epoch needs to certify a policy, by its observed disagreement."""
    delta = path_delta(0, delta=DELTA, alpha=ALPHA)
    rows = [
        "| `--max-risk` | no audit differs | "
        + " | ".join(f"{share:g} of the risk is observed" for share in OBSERVED[1:])
        + " |",
        "|---|" + "---|" * len(OBSERVED),
    ]
    for risk in RISKS:
        test = new_path_test(2, risk=risk, delta=delta)
        observed = [
            msgspec.structs.replace(test, samples=1, loss_sums=np.array([0, share * risk])) for share in OBSERVED
        ]
        cells = [samples_to_certify(test, 1) for test in observed]
        rows.append(f"| {100 * risk:g} % | {' | '.join('never' if n is None else f'{n:,}' for n in cells)} |")
    return "".join(f"{row}\n" for row in rows)


def with_tables(page: str) -> str:
    """Return the page with the current tables between its two markers."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    detection = (
        "\nAudits within which the alarm comes, with a probability of 90 % (DELTA = 0.1), for a change at the first "
        "audit of a policy\nand after 10,000 audits:\n\n"
    )
    certification = "\nAudits that certify a policy (an estimate for the first path of an epoch, DELTA = 0.1):\n\n"
    return f"{before}{BEGIN}{detection}{detection_table()}{certification}{certification_table()}\n{END}{after}"


def main() -> None:
    """Write or check the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, and fail if a table is out of date")
    check = parser.parse_args().check
    page = PAGE.read_text(encoding="utf-8")
    current = with_tables(page)
    if not check:
        PAGE.write_text(current, encoding="utf-8")
    elif page != current:
        sys.exit("the tables in docs/policies.md differ from the code; run scripts/promise_table.py")


if __name__ == "__main__":
    main()
