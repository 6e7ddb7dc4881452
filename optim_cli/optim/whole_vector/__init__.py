"""Algorithms that take all parameters as one vector."""
