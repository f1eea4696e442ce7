"""Estimates of points from repeats, and how sure they are."""
