"""`python -m optim_cli` does what `optim-run` does."""

from optim_cli.cli import main

main()
