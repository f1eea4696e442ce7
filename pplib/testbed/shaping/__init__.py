"""Real links, shaped by the devices themselves."""
