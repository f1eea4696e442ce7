"""Weights: read from what others wrote, fitted to a module, kept by content."""
