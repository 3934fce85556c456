"""`python -m hyperpq` is the command line."""

from hyperpq.cli.main import main

main()
