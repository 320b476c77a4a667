"""`python -m edgeexit` is the command line."""

from edgeexit.cli.main import main

main()
