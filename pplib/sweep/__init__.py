"""The sweep room: ties the others together for the notebooks and for `python -m pplib.sweep`."""

from pplib.files.late_import import put_off_slow_imports

put_off_slow_imports()
