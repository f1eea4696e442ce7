"""One trial: from its workers' timelines to its columns, and whether they can be."""
