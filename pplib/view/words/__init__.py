"""What the figures say, in words: for the report, the notebooks and the end of a sweep."""
