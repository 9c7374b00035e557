"""`python -m specdec` is the console script."""

from specdec.cli import main

main()
