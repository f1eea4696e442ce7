"""The testbed room: devices, and the worker processes on them."""
