"""The command line, as ``python -m hyperpq``."""

from hyperpq.cli.main import main

main()
