"""Devices over SSH: logging in, commands, files and forwarded ports."""
