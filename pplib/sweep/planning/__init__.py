"""Profiles of the devices and hops, and the cuts that predictions from them choose; `paretopipe plan`."""
