"""Exact fronts over all cuts, device orders and choices of devices."""
