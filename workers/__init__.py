"""Entry scripts that run on the devices."""
