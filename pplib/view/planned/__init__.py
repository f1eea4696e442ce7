"""Predictions and plans, as charts and as controls."""
