"""Plans: which cut, over which devices, predicted from profiles."""
