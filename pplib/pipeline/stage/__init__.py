"""One stage: built, run, and looped over microbatches."""
