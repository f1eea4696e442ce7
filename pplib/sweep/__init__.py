"""The sweep room: ties the others together for the notebooks and for `python -m pplib.sweep`."""
