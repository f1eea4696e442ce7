"""Sections of the report and of the notebook, made of what the trials show."""
