"""The view room: charts, widgets and the HTML report."""

from pplib.files.late_import import put_off_slow_imports

put_off_slow_imports()
