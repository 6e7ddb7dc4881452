"""Algorithms that take sums or products over whole tensors."""
