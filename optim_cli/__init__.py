"""optim-run: a training and experiment runner where optimization is the question."""

__version__ = "0.1.0"
