"""Trials: which, in which order, and each of them, stored as soon as it is done."""
