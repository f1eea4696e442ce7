"""Worker processes: started here or over SSH, watched, and how they ended."""
