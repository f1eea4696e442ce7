"""What a worker's process knows of itself: its memory, its threads, and whether it stood still."""
