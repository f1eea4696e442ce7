"""Emulated devices and links on this machine."""
