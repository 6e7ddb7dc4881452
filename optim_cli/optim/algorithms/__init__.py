"""One file per algorithm: docstring (formula, paper), hyperparameters, state, scalars, rule."""
