"""The report of a results folder: one HTML page, and the charts as pictures."""
