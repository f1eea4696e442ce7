"""What cuts would do if something changed: the link, a device, the depth."""
