"""From a model's forward() to a straight line of operations."""
