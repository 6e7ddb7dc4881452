"""`python -m optim_cli` does what `optim-run` does."""

import sys

from optim_cli.cli import main

if __name__ == "__main__":
    sys.argv[0] = "optim-run"  # as usage texts and shell completion name it
    main()
