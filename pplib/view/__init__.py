"""The view room: charts, widgets and the HTML report."""
