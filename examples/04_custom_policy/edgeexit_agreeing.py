"""The command `edgeexit` with the policy of this example."""

import agreeing  # noqa: F401 - registers the policy

from edgeexit.cli.main import main

if __name__ == "__main__":
    main()
