"""`edgeexit calibrator accept-revision`: what a user decides about the numbers of revisions."""

from datetime import datetime, timezone
from typing import Annotated

import typer

from edgeexit.cli.calibrator.shared_options import DATABASE, DatabaseOption, current_user
from edgeexit.console import console, next_step


def accept_revision_command(
    cohort: Annotated[
        str,
        typer.Argument(help="COHORT, FLEET/COHORT or FLEET/BUNDLE/COHORT, as `status` prints it.", metavar="COHORT"),
    ],
    revision: Annotated[
        int | None,
        typer.Option(min=1, help="Highest revision that honest devices run; default: the highest that one claims."),
    ] = None,
    database: DatabaseOption = DATABASE,
) -> None:
    """Publish policies above a revision that devices run, after database and broker lost theirs.

    Devices accept no revision below the one that they run. The calibrator believes a number only if its own key has
    signed it; what a device claims is shown by `status` and needs this command. Look at the devices before: a hostile
    one can claim any number.

    Example: `edgeexit calibrator accept-revision shop/cameras`
    """
    from edgeexit_calibration import accept_revision, open_database

    store = open_database(database, create=False)
    done = accept_revision(store, cohort, revision, user=current_user(), now=datetime.now(timezone.utc))
    store.close()
    console.print(f"{done.cohort}: further revisions are above {done.accepted}")
    if done.current is None:
        next_step("edgeexit calibrator register")
    else:
        console.print(f"The running calibrator publishes the policy of revision {done.current} again as a higher one.")
        next_step(f"edgeexit calibrator status --database {store.name}")
